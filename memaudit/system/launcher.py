"""How many processes a launcher such as ``torchrun`` has started.

Knows the environment that launchers set. Loads no torch.
"""

from __future__ import annotations

import os

from memaudit.errors import UsageError


def require_one_process(command: str) -> None:
    """Raise UsageError if a launcher has started several processes."""
    if world_size() > 1:
        raise UsageError(f"{command} runs in one process; start it without a launcher")


def world_size() -> int:
    """Return the number of processes. Raises UsageError if the environment holds no number."""
    value = os.environ.get("WORLD_SIZE") or "1"
    if not value.isdecimal():
        raise UsageError("WORLD_SIZE is set but is not a number; unset it or use torchrun")
    return int(value)


def is_main_process() -> bool:
    """True unless a launcher started this process as one of several, and not the first."""
    return os.environ.get("RANK", "0") in ("", "0")
