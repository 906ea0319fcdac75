"""Reading and decompressing files block by block.

Knows how packed files begin and how much they may unpack to. Knows nothing of text.

The first bytes, not the name, decide how a file is packed. A kilobyte of gzip can unpack to a
megabyte. Text does not, so a file that does is refused.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Protocol

from memaudit.errors import DataError
from memaudit.system.files import open_regular

Note = Callable[[Path, str], None]
"""Takes a note on a file for the report: its path, and the end of a sentence."""

PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zst")
BLOCK = 1 << 20
"""Bytes read or unpacked at a time."""
_SMALL_BLOCK = 1 << 13
"""Packed bytes read at a time if a file may have many streams: the rest of the block is copied at
each one's end, and an empty stream has 14 bytes."""
START = 1 << 16
"""First bytes of a file used to identify it."""
MAX_RATIO, FREELY_UNPACKED = 200, 1 << 30
"""Limit on unpacked size: this many times the packed size, or this many bytes if that is more.
Packed text is a third to a tenth of its size."""
FREE_ROWS, LEAST_BYTES = 1_000_000, 5
"""Limit on lines and rows, blank ones included: this many, or a file of this many bytes for each.
Packed, millions of short ones take no space, but minutes to read."""
_MAX_MEMORY = 256 << 20
"""Bytes of memory that unpacking xz may use; ``xz -9`` needs 65 MiB."""

PARQUET = b"PAR1\x15"
"""First bytes of a Parquet file with pages; a text may begin with the letters alone."""
_PACKED = (
    (b"\x1f\x8b", "gzip"),
    *((b"BZh%d1AY&SY" % level, "bzip2") for level in range(1, 10)),
    *((b"BZh%d\x17\x72\x45\x38\x50\x90" % level, "bzip2") for level in range(1, 10)),  # empty
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_REFUSED = (
    (b"PK\x03\x04", "a zip archive or an Office document; unpack it, or export it as .csv"),
    (b"\x04\x22\x4d\x18", "packed with lz4; unpack it: lz4 -d"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it: 7z x"),
    (b"Rar!\x1a\x07", "a rar archive; unpack it: unrar x"),
    (PARQUET, "a Parquet file; rename it to end in .parquet"),
    (b"%PDF-", "a PDF document; give its text"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer; get the data: git lfs pull"),
)
_TAR, _TAR_AT = b"ustar", 257


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def unpacked_blocks(path: Path, note: Note) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks, unpacked if it is gzip, bzip2, xz or zstd.

    The first block has at least START bytes, if the file has.

    Raises DataError for another archive, for one that is damaged or unpacks to more than text
    does, and for a packed ending on a file that is not packed; OSError if it cannot be read.
    """
    with open_regular(path) as file:
        start = file.read(BLOCK)
        kind = _kind(start)
        ending = path.suffix.lower()
        if kind is None:
            refuse_document(path, start)
            if start and ending in PACKED_ENDINGS:
                raise DataError(
                    f"{path}: is not packed, although its name ends in {ending}; "
                    "rename it, or copy it again"
                )
            yield start
            yield from _plain(file)
            return
        if ending not in PACKED_ENDINGS:
            note(path, f"unpacked as {kind}, although its name does not say so")
        file.seek(0)
        yield from _checked(path, _unpacked(path, file, kind))


def check_unpacked(path: Path, unpacked: int) -> None:
    """Raise DataError if a packed file unpacks to more bytes than text does."""
    if unpacked > FREELY_UNPACKED and unpacked > MAX_RATIO * path.stat().st_size:
        raise DataError(
            f"{path}: unpacks to more than {MAX_RATIO} times its size, as no text does; "
            "if it is text, unpack it first"
        )


def check_rows(path: Path, number: int) -> None:
    """Raise DataError if a file has more lines or rows than its size on disk gives records."""
    if number % FREE_ROWS == 1 < number and number * LEAST_BYTES > path.stat().st_size:
        raise DataError(
            f"{path}: has over {number - 1:,} lines or rows, and not {LEAST_BYTES} bytes for each; "
            "remove those that are blank or repeated"
        )


def _kind(start: bytes) -> str | None:
    return next((kind for mark, kind in _PACKED if start.startswith(mark)), None)


def refuse_document(path: Path, start: bytes, *, but: bytes | None = None) -> None:
    """Raise DataError for a file whose first bytes show that it is not text.

    but: first bytes to accept.
    """
    for mark, what in _REFUSED:
        if start.startswith(mark) and mark != but:
            raise DataError(f"{path}: is {what}")
    if start[_TAR_AT:].startswith(_TAR) and b"\0" in start[:_TAR_AT]:
        raise DataError(f"{path}: is a tar archive; unpack it: tar xf")


def _plain(file: BinaryIO, size: int = BLOCK) -> Iterator[bytes]:
    while block := file.read(size):
        yield block


def _checked(path: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the blocks of an archive while their start and total length may be text."""
    start, total = b"", 0
    while len(start) < START and (block := next(blocks, None)) is not None:
        start += block
    refuse_document(path, start)
    if _kind(start) is not None:
        raise DataError(f"{path}: is packed twice; unpack it once")
    for block in chain([start], blocks):
        total += len(block)
        check_unpacked(path, total)
        yield block


def _unpacked(path: Path, file: BinaryIO, kind: str) -> Iterator[bytes]:
    """Yield the blocks of an archive, some perhaps empty. Raises DataError if it is damaged."""
    unpack = {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz, "zstd": _zstd}[kind]
    try:
        yield from unpack(file)
    except (EOFError, zlib.error, lzma.LZMAError):
        pass
    except OSError as error:  # bz2, gzip and pyarrow raise it without a number
        if error.errno is not None:
            raise
    else:
        return
    raise DataError(f"{path}: the {kind} data is cut off or corrupt; copy it again")


def _gzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as unpacked:
        while block := unpacked.read(BLOCK):
            yield block


def _bzip2(file: BinaryIO) -> Iterator[bytes]:
    return _streams(_plain(file, _SMALL_BLOCK), bz2.BZ2Decompressor)


def _xz(file: BinaryIO) -> Iterator[bytes]:
    return _streams(_plain(file, _SMALL_BLOCK), lambda: lzma.LZMADecompressor(memlimit=_MAX_MEMORY))


def _zstd(file: BinaryIO) -> Iterator[bytes]:
    import pyarrow  # slow to load, and few files need it

    with pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd") as unpacked:
        while block := unpacked.read(BLOCK):
            yield block


def _streams(blocks: Iterable[bytes], new: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """Unpack all streams of a file, down to its last byte.

    The standard library's readers ignore damaged data after the first stream.
    """
    decompressor = new()
    for packed in blocks:
        while packed:
            if decompressor.eof:
                packed = packed.lstrip(b"\0")  # padding between streams, as xz allows
                if not packed:
                    break
                decompressor = new()
            yield decompressor.decompress(packed, BLOCK)
            while not (decompressor.eof or decompressor.needs_input):
                yield decompressor.decompress(b"", BLOCK)
            packed = decompressor.unused_data if decompressor.eof else b""
    if not decompressor.eof:
        raise EOFError
