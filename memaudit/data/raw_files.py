"""Bytes out of files that may be anything: never more at a time than memory holds.

Knows files, gzip and byte-order marks. Knows nothing of what a line or a file holds.

A kilobyte of gzip can unpack to a megabyte, and a file can be one line without an end. Text does
neither, so what does is refused instead of read.
"""

from __future__ import annotations

import codecs
import gzip
import io
from collections.abc import Iterator
from pathlib import Path

from memaudit.errors import DataError

LONGEST = 128 << 20
"""Bytes of a line, a row or a file of a folder; a book has one or two million."""
LONGEST_ARRAY = 512 << 20
"""Bytes of a file that is only read as a whole."""
MOST_UNPACKED, FREELY_UNPACKED = 200, 1 << 30
"""What a packed file may unpack to: so many times its size, or so many bytes if that is more.
Packed text is a third to a tenth of itself."""


def size_text(size: int) -> str:
    """A number of bytes, as a message names a limit: ``256 MiB``."""
    return f"{size >> 20} MiB"


def read_lines(path: Path) -> Iterator[bytes]:
    """The raw lines of a plain or gzip file, without a byte-order mark at its start.

    Raises DataError for a line longer than LONGEST and for an archive that unpacks to more than
    text does; OSError, EOFError and zlib.error where the file cannot be read.
    """
    if not path.name.lower().endswith(".gz"):
        with path.open("rb") as file:
            yield from _lines(path, file, packed=False)
    else:
        with gzip.open(path, "rb") as unpacked:
            yield from _lines(path, unpacked, packed=True)


def read_whole(path: Path, longest: int, advice: str) -> bytes:
    """A file's bytes without a byte-order mark. Raises DataError where they are more than longest.

    advice: what to do then, as the end of the message.
    """
    with path.open("rb") as file:
        content = file.read(longest + 1)
    if len(content) > longest:
        raise DataError(f"{path}: is longer than {size_text(longest)}; {advice}")
    return content.removeprefix(codecs.BOM_UTF8)


def check_unpacked(path: Path, unpacked: int) -> None:
    """Raise DataError where a packed file says that it unpacks to more than text does."""
    if unpacked > FREELY_UNPACKED and unpacked > MOST_UNPACKED * path.stat().st_size:
        raise DataError(
            f"{path}: unpacks to more than {MOST_UNPACKED} times its size, as no text does; "
            "if it is text all the same, give it unpacked"
        )


def _lines(path: Path, file: io.BufferedIOBase, *, packed: bool) -> Iterator[bytes]:
    number = total = 0
    while raw := file.readline(LONGEST + 1):
        number += 1
        total += len(raw)
        if len(raw) > LONGEST:
            raise DataError(
                f"{path}:{number}: the line is longer than {size_text(LONGEST)}; "
                "split it into several records"
            )
        if packed:
            check_unpacked(path, total)
        yield raw if number > 1 else raw.removeprefix(codecs.BOM_UTF8)


class RowLines:
    """The lines of a file as text, for a format whose rows may go over several of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = read_lines(path)
        self._number = 0
        self.row_bytes = 0
        """Bytes of the row that is being read: whoever reads rows sets it to 0 before each."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = next(self._lines)
        self._number += 1
        self.row_bytes += len(raw)
        if self.row_bytes > LONGEST:
            raise DataError(
                f"{self._path}:{self._number}: the row that ends here, or goes on, is longer "
                f"than {size_text(LONGEST)}; look at its quotes"
            )
        # Undecodable bytes come through as lone surrogates, so that only their own row is bad.
        return raw.decode("utf-8", "surrogateescape")
