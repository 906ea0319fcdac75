"""Time and memory that one input may take."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

MEMORY = 3 << 30
"""Bytes of address space beyond what the process has when the limit is set."""


PATIENCE = 30
"""Times the processor time that an input may take by the clock, on a machine that is busy."""


class TooSlow(BaseException):
    """The input was not done in time. No Exception, so that nothing takes it for bad input."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow once the block has taken this much processor time. Main thread only.

    A block that waits, and takes no processor time, has PATIENCE times as long by the clock.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"more than {seconds:g} s")

    limits = (
        (signal.SIGPROF, signal.ITIMER_PROF, seconds),
        (signal.SIGALRM, signal.ITIMER_REAL, PATIENCE * seconds),
    )
    before = [signal.signal(number, stop) for number, _, _ in limits]
    for _, timer, after in limits:
        signal.setitimer(timer, after)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(limits, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def limit_memory() -> None:
    """From now on this process may take MEMORY more than it has."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
