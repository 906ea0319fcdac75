"""A file's bytes, unpacked where they are packed, a block at a time.

Knows how packed files begin and how much they may unpack to. Knows nothing of text.

What a file is packed with is read from its first bytes; its name decides nothing. A kilobyte of
gzip can unpack to a megabyte: text does not, so such a file is refused.
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

Note = Callable[[Path, str], None]
"""Takes what a reader of the result must know about a file: its path, and the end of a sentence."""

PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zst")
BLOCK = 1 << 20
"""Bytes that are read or unpacked at a time."""
START = 1 << 16
"""Bytes by which a file is known."""
MOST_UNPACKED, FREELY_UNPACKED = 200, 1 << 30
"""What a packed file may unpack to: so many times its size, or so many bytes if that is more.
Packed text is a third to a tenth of itself."""
_MOST_MEMORY = 256 << 20
"""Bytes that unpacking xz may take; ``xz -9`` needs 65 MiB."""

PARQUET = b"PAR1\x15"
"""How a Parquet file with pages begins; a text may begin with the letters."""
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
    (PARQUET, "a Parquet file; let its name end in .parquet"),
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
    """The bytes of a file in blocks, unpacked where it is gzip, bzip2, xz or zstd.

    The first block has at least START bytes, if the file has.

    Raises DataError for any other archive, for one that is damaged or unpacks to more than text
    does, and for a name that promises what the bytes are not; OSError where it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(BLOCK)
        kind = _kind(start)
        ending = path.suffix.lower()
        if kind is None:
            refuse_document(path, start)
            if start and ending in PACKED_ENDINGS:
                raise DataError(
                    f"{path}: is not packed, although its name ends in {ending}; "
                    "rename it, or copy it anew"
                )
            yield start
            yield from _plain(file)
            return
        if ending not in PACKED_ENDINGS:
            note(path, f"unpacked as {kind}, although its name does not say so")
        file.seek(0)
        yield from _checked(path, _unpacked(path, file, kind))


def check_unpacked(path: Path, unpacked: int) -> None:
    """Raise DataError where a packed file says that it unpacks to more than text does."""
    if unpacked > FREELY_UNPACKED and unpacked > MOST_UNPACKED * path.stat().st_size:
        raise DataError(
            f"{path}: unpacks to more than {MOST_UNPACKED} times its size, as no text does; "
            "if it is text all the same, give it unpacked"
        )


def _kind(start: bytes) -> str | None:
    return next((kind for mark, kind in _PACKED if start.startswith(mark)), None)


def refuse_document(path: Path, start: bytes, *, but: bytes | None = None) -> None:
    """Raise DataError for a file that is known to be no text by its first bytes.

    but: first bytes that are no reason.
    """
    for mark, what in _REFUSED:
        if start.startswith(mark) and mark != but:
            raise DataError(f"{path}: is {what}")
    if start[_TAR_AT:].startswith(_TAR) and b"\0" in start[:_TAR_AT]:
        raise DataError(f"{path}: is a tar archive; unpack it: tar xf")


def _plain(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _checked(path: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks of an archive, as long as they may be text by their start and their length."""
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
    """The blocks of an archive; any of them may be empty. Raises DataError where it is damaged."""
    unpack = {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz, "zstd": _zstd}[kind]
    try:
        yield from unpack(file)
    except (EOFError, zlib.error, lzma.LZMAError):
        pass
    except OSError as error:  # of bz2, gzip and pyarrow too, which give no number
        if error.errno is not None:
            raise
    else:
        return
    raise DataError(f"{path}: the {kind} data is cut off or corrupt; copy it anew")


def _gzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as unpacked:
        while block := unpacked.read(BLOCK):
            yield block


def _bzip2(file: BinaryIO) -> Iterator[bytes]:
    return _streams(_plain(file), bz2.BZ2Decompressor)


def _xz(file: BinaryIO) -> Iterator[bytes]:
    return _streams(_plain(file), lambda: lzma.LZMADecompressor(memlimit=_MOST_MEMORY))


def _zstd(file: BinaryIO) -> Iterator[bytes]:
    import pyarrow  # here, because it takes its time to load and few files need it

    with pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd") as unpacked:
        while block := unpacked.read(BLOCK):
            yield block


def _streams(blocks: Iterable[bytes], new: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """Unpack the streams of a file, which may follow each other, down to its last byte.

    The standard library's own readers pass over whatever follows the first stream and is damaged.
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
