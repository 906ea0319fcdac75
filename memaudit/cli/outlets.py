"""Standard streams that never raise: a full disk or a closed descriptor loses text, not the audit.

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
    """Stream that passes bytes on while they can be written, then drops them.

    raw: the underlying stream; None for a descriptor that was closed before the start.
    """

    def __init__(self, raw: io.RawIOBase | None) -> None:
        self._raw = raw
        self.fault = ""
        """Why something could not be written; empty if the reader just stopped early."""
        self.again = ""
        """Command that shows the same output again, if there is one."""
        self._dropping = False

    def writable(self) -> bool:
        """Return True: writers are never refused."""
        return True

    def isatty(self) -> bool:
        """Return True if it leads to a terminal."""
        return self._raw is not None and self._raw.isatty()

    def fileno(self) -> int:
        """Return the descriptor. Raises OSError if it was closed."""
        if self._raw is None:
            raise io.UnsupportedOperation("fileno")
        return self._raw.fileno()

    def write(self, content: object) -> int:
        """Accept all of the content, even if it cannot be written."""
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
    """Return the outlet under stdout; None before the guard or if the stream was replaced."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw if isinstance(raw, Outlet) else None


def guard_standard_streams() -> Outlet:
    """Put outlets under stdout and stderr; return that of stdout.

    A closed descriptor is bound to the null device. Otherwise the next file opened would get its
    number, and whatever a library prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout, outlet = _guarded(sys.stdout)
    sys.stderr, _ = _guarded(sys.stderr)
    return outlet


def _guarded(stream: TextIO | None) -> tuple[TextIO, Outlet]:
    """Return the stream over an outlet. Characters it cannot encode become escapes."""
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
