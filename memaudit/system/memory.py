"""A lack of memory, however it is said, and as an error that tells where it was.

Knows how torch, numpy and Python say that an allocation failed. Loads none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from memaudit.errors import RunError

FAILED_ALLOCATION = (RuntimeError, MemoryError)
"""What a failed allocation is raised as; of the first kind only where `is_out_of_memory`."""

_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: only CUDA and Python have a class for it, torch's CPU and MPS
    allocators say it in words.
    """
    if isinstance(error, MemoryError):
        return True
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


@contextmanager
def short_of_memory(where: str = "") -> Iterator[None]:
    """Let a lack of memory that no smaller batch helps end as one line.

    where: as ``in the stage "scoring"``, if that is known.

    Raises:
        RunError: instead of a failed allocation; anything else is left as it is.
    """
    try:
        yield
    except FAILED_ALLOCATION as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"out of memory{where and ' '}{where}; audit fewer windows (--limit) or shorter ones, "
            "free memory that others hold, or use a machine that has more"
        ) from error
