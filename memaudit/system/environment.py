"""The environment of an audit, for the report: library versions, platform and processors.

Knows the packages that can change figures. Knows nothing of audits.
"""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version

_RELEVANT = (
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
    "presidio-analyzer",
    "python-stdnum",
    "regex",
)

TESTED = {"torch": "2.13.0", "transformers": "5.24.0", "peft": "0.21.2"}
"""Newest versions that `.ci/versions` has passed with, for the libraries that run a model."""


def describe_libraries(*more: str) -> dict[str, str]:
    """Return the versions of Python, of packages that can change figures, and of ``more``.

    Packages that are not installed are left out.
    """
    versions = {"python": platform.python_version()}
    for name in (*_RELEVANT, *more):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def newer_than_tested() -> str:
    """Return a sentence that names libraries newer than tested; empty if there are none."""
    installed = describe_libraries()
    newer = [
        f"{name} {installed[name]} (tested up to {tested})"
        for name, tested in TESTED.items()
        if name in installed and _release(installed[name]) > _release(tested)
    ]
    if not newer:
        return ""
    return f"Newer than tested: {', '.join(newer)}. Run `memaudit demo` to check that they work."


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version: 2.13.0+cpu and 2.13 are the same release."""
    numbers = re.match(r"[0-9.]*", version)
    assert numbers is not None  # the pattern matches anything
    parts = [int(part) for part in numbers.group().split(".") if part]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def describe_machine() -> dict[str, str]:
    """Return platform and processors; the target names the accelerator."""
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "processors": str(os.cpu_count() or 1),
    }
