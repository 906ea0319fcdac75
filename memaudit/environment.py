"""What an audit ran on: library versions, processor, accelerator, commit to memory for the report.

Knows the packages that decide figures. Knows nothing of audits.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

_DECIDING = (
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "safetensors",
    "accelerate",
    "torchao",
    "bitsandbytes",
    "gguf",
    "numpy",
    "scipy",
    "rapidfuzz",
    "phonenumbers",
    "python-stdnum",
)


def describe_libraries(*more: str) -> dict[str, str]:
    """Version of every package that can change a figure of an audit, and of more that are named;
    those not installed are left out.
    """
    found = {"python": platform.python_version()}
    for name in (*_DECIDING, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_machine() -> dict[str, str]:
    """Platform and processors; the accelerator is the target's to name."""
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "processors": str(os.cpu_count() or 1),
    }
