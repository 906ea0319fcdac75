"""The header of a GGUF file, checked before a library reads it.

Knows GGUF's layout (version 2 and 3). Opens no weights and keeps no value.

The readers of transformers and of the gguf package trust every count in a file: a file that claims
an array of 2**40 numbers keeps them busy until memory is full.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from memaudit.target.refusals import refusal

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type of a value -> its bytes; strings and arrays are the two types of variable size."""
_STRING, _ARRAY = 8, 9
_DEEPEST = 4
"""Most levels of nested arrays; real files have 1."""
_MAX_DIMENSIONS = 8


def check_gguf(name: str, path: Path) -> None:
    """Raise TargetError for a file whose header does not fit into it; OSError if it is missing.

    name: what the user calls the file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Walk(data).whole()
    except (struct.error, ValueError):
        raise refusal(
            name, "its GGUF header is damaged or cut short; fetch the file again"
        ) from None


class _Walk:
    """Position in the file that only moves forward, and never past its end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4  # after the letters GGUF
        (version,) = struct.unpack_from("<I", data, 4)
        self._order = ">" if version & 0xFFFF == 0 else "<"  # as in the gguf package's reader

    def whole(self) -> None:
        """Move past every name, value and tensor. Raises struct.error or ValueError."""
        self._number("I")
        tensors, values = self._number("Q"), self._number("Q")
        for _ in range(values):
            self._string()
            self._value(self._number("I"), _DEEPEST)
        for _ in range(tensors):
            self._string()
            dimensions = self._number("I")
            if dimensions > _MAX_DIMENSIONS:
                raise ValueError
            self._skip(8 * dimensions + 4 + 8)

    def _value(self, kind: int, depth: int) -> None:
        if kind == _STRING:
            self._string()
        elif kind == _ARRAY and depth:
            inner, count = self._number("I"), self._number("Q")
            if inner in _SIZES:
                self._skip(count * _SIZES[inner])
            else:
                for _ in range(count):
                    self._value(inner, depth - 1)
        elif kind in _SIZES:
            self._skip(_SIZES[kind])
        else:
            raise ValueError

    def _string(self) -> None:
        self._skip(self._number("Q"))

    def _number(self, form: str) -> int:
        (number,) = struct.unpack_from(self._order + form, self._data, self._at)
        self._at += struct.calcsize(form)
        return int(number)

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._data):
            raise ValueError
