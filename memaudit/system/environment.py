"""What an audit ran on, for the report: library versions, which of them are newer than tested,
platform and processors.

Knows the packages that decide figures. Knows nothing of audits.
"""

from __future__ import annotations

import os
import platform
import re
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

TESTED = {"torch": "2.13.0", "transformers": "5.24.0", "peft": "0.21.2"}
"""The newest versions that `.ci/versions` has passed with, of the libraries that run a model."""


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


def newer_than_tested() -> str:
    """A sentence for the user where a library is newer than any tested; empty where none is."""
    installed = describe_libraries()
    newer = [
        f"{name} {installed[name]} (tested up to {tested})"
        for name, tested in TESTED.items()
        if name in installed and _release(installed[name]) > _release(tested)
    ]
    if not newer:
        return ""
    return f"Newer than tested: {', '.join(newer)}. `memaudit demo` shows whether they work."


def _release(version: str) -> tuple[int, ...]:
    """Numbers of a version: 2.13.0+cpu and 2.13 are the same release."""
    numbers = re.match(r"[0-9.]*", version)
    assert numbers is not None  # the pattern matches anything
    parts = [int(part) for part in numbers.group().split(".") if part]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def describe_machine() -> dict[str, str]:
    """Platform and processors; the accelerator is the target's to name."""
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "processors": str(os.cpu_count() or 1),
    }
