"""Out-of-memory errors: recognised from any library, and reported with the stage.

Knows how torch, numpy and Python report a failed allocation. Loads none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from memaudit.errors import RunError

FAILED_ALLOCATION = (RuntimeError, MemoryError)
"""Exceptions of a failed allocation; a RuntimeError only if `is_out_of_memory`."""

_PHRASES = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an allocation failed.

    Only CUDA and Python have an exception class for it; torch's CPU and MPS allocators have only
    the message.
    """
    if isinstance(error, MemoryError):
        return True
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _PHRASES)


@contextmanager
def short_of_memory(where: str = "") -> Iterator[None]:
    """Report a lack of memory that no smaller batch cures in one line.

    where: such as ``in the stage "scoring"``, if known.

    Raises:
        RunError: instead of a failed allocation; other exceptions pass unchanged.
    """
    try:
        yield
    except FAILED_ALLOCATION as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"out of memory{where and ' '}{where}; audit fewer windows (--limit) or shorter ones, "
            "free memory used by other programs, or use a machine with more"
        ) from error
