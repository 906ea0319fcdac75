"""Standard streams that never raise: a full disk or a closed descriptor loses text, and no audit.

Knows file descriptors. Knows nothing of what is printed.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TextIO, cast

_CLOSED = "it is closed"


class Outlet(io.RawIOBase):
    """Passes bytes on for as long as they can be written, then drops them.

    raw: the stream under it; None for a descriptor that was closed before the start.
    """

    def __init__(self, raw: io.RawIOBase | None) -> None:
        self._raw = raw
        self.fault = ""
        """Why something could not be written; a reader that went away has seen enough."""
        self.again = ""
        """Command that shows the same once more, where there is one."""
        self._dropping = False

    def writable(self) -> bool:
        """Always, as to whoever writes."""
        return True

    def isatty(self) -> bool:
        """Whether it leads to a terminal."""
        return self._raw is not None and self._raw.isatty()

    def fileno(self) -> int:
        """The descriptor. Raises OSError where it was closed."""
        if self._raw is None:
            raise io.UnsupportedOperation("fileno")
        return self._raw.fileno()

    def write(self, content: object) -> int:
        """Take all of the content, whatever becomes of it."""
        left = memoryview(cast(bytes, content)).cast("B")
        size = len(left)
        try:
            while left and not self._dropping:
                left = left[self._pass_on(left) :]
        except BrokenPipeError:
            self._dropping = True
        except OSError as error:
            self._dropping = True
            self.fault = error.strerror or type(error).__name__
        return size

    def _pass_on(self, content: memoryview) -> int:
        if self._raw is None:
            raise OSError(0, _CLOSED)
        written = self._raw.write(content)
        if written is None:  # a pipe that does not block, and is full
            select.select([], [self._raw], [])
            return 0
        return written


def stdout_outlet() -> Outlet | None:
    """The outlet under stdout; None before the guard, and where somebody put another stream."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, Outlet) else None


def guard_standard_streams() -> Outlet:
    """Put outlets under stdout and stderr; return that of stdout.

    A descriptor that was closed is taken by the null device: the next file to be opened would have
    its number, and get whatever a library prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout, outlet = _guarded(sys.stdout)
    sys.stderr, _ = _guarded(sys.stderr)
    return outlet


def _guarded(stream: TextIO | None) -> tuple[TextIO, Outlet]:
    """The stream over an outlet. What it cannot encode it shows as an escape."""
    if stream is None:
        outlet, encoding = Outlet(None), "utf-8"
    else:
        stream.flush()
        buffer = stream.buffer
        outlet = Outlet(cast(io.RawIOBase, getattr(buffer, "raw", buffer)))
        encoding = stream.encoding
    written = io.TextIOWrapper(
        io.BufferedWriter(outlet),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=stream is None or stream is sys.stderr or stream.isatty(),
    )
    return written, outlet
