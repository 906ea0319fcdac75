"""Lines and whole texts of files, never more at a time than memory holds.

Knows packed files, encodings and line ends. Knows nothing of the contents of a line or a file.

A file can be one line without an end. Text is not, so such a file is refused.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from memaudit.data.charsets import OtherEncoding, check_line, check_utf8, detect, to_utf8
from memaudit.data.packing import START, Note, check_rows
from memaudit.data.zipped import blocks_of
from memaudit.errors import DataError

LONGEST = 128 << 20
"""Bytes of a line, a row or a file of a folder; a book has one or two million."""
LONGEST_ARRAY = 512 << 20
"""Bytes of a file that can only be read as a whole."""
MARK = "\ufeff"
"""The byte-order mark, decoded."""
_LINE_END = re.compile(rb"\r\n?|\n")


class Line(NamedTuple):
    """A line of a text file."""

    number: int
    """From 1."""
    text: str
    """Text with its line end, if it has one. Bytes that are not UTF-8 are lone surrogates."""
    is_valid: bool
    """True if all of it is UTF-8."""
    size: int
    """Bytes as UTF-8."""


def size_text(size: int) -> str:
    """Return a number of bytes as messages write limits: ``256 MiB``."""
    return f"{size >> 20} MiB"


def ignore_note(path: Path, words: str) -> None:
    """Ignore a note that was taken before."""


def read_lines(path: Path, note: Note) -> Iterator[Line]:
    """Yield the lines of a text file, without the byte-order marks of files that were joined.

    Raises as `read_marked_lines`.
    """
    has_marks = False
    for line in read_marked_lines(path, note):
        if line.text.startswith(MARK):
            if not has_marks:
                note_mark(path, line.number, note)
            has_marks = True
            line = line._replace(text=line.text.removeprefix(MARK))
        yield line


def note_mark(path: Path, number: int, note: Note) -> None:
    """Take a note of a byte-order mark after the start of a file."""
    note(path, f"left out the byte-order mark on line {number}, where files were joined")


def read_marked_lines(path: Path, note: Note) -> Iterator[Line]:
    """Yield the lines of a text file, however it is packed and its lines end.

    Only the byte-order mark at the start is left out.

    Raises DataError for a line longer than LONGEST, for more lines than the file's size allows, for
    an archive or an encoding that is not read, and for more than a few bytes that are not UTF-8;
    OSError if the file cannot be read.
    """
    is_judged = False
    for number, raw in enumerate(_raw_lines(path, note), 1):
        check_rows(path, number)
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        try:
            text, is_valid = raw.decode("utf-8"), True
        except UnicodeDecodeError:
            text, is_valid = raw.decode("utf-8", "surrogateescape"), False
        try:
            check_line(raw)
            if not (is_valid or is_judged):
                check_utf8(_raw_lines(path, ignore_note))
                is_judged = True
        except OtherEncoding as problem:
            raise DataError(f"{path}:{number}: {problem}") from None
        yield Line(number, text, is_valid, len(raw))


def read_whole(path: Path, longest: int, advice: str, note: Note) -> bytes:
    """Return a text file as UTF-8 without a byte-order mark; damaged bytes stay as they are.

    Raises DataError if it is longer than ``longest`` bytes, and for an archive or an encoding that
    is not read. advice: the remedy for a file that is too long, as the end of the message.
    """
    blocks: list[bytes] = []
    size = 0
    for block in _utf8_blocks(path, note):
        blocks.append(block)
        size += len(block)
        if size > longest:
            raise DataError(f"{path}: is longer than {size_text(longest)}; {advice}")
    return b"".join(blocks).removeprefix(codecs.BOM_UTF8)


def _raw_lines(path: Path, note: Note) -> Iterator[bytes]:
    return _split(path, _unix_ends(path, _utf8_blocks(path, note), note))


def _utf8_blocks(path: Path, note: Note) -> Iterator[bytes]:
    """Yield the file as it is, or as UTF-8 if it is UTF-16 or UTF-32."""
    blocks = blocks_of(path, note)
    start = next(blocks, b"")
    try:
        charset = detect(start[:START])
        if charset.name is None:
            yield start
            yield from blocks
            return
        reason = "" if charset.marked else ", by its bytes, as it has no mark"
        note(path, f"read as {charset.name}{reason}")
        yield from to_utf8(chain([start], blocks), charset.codec)
    except OtherEncoding as problem:
        raise DataError(f"{path}: {problem}") from None


def _unix_ends(path: Path, blocks: Iterator[bytes], note: Note) -> Iterator[bytes]:
    """Yield the blocks; if the first line ends in CR alone, with an LF for every CR."""
    start: list[bytes] = []
    tail, end = b"", None
    for block in blocks:
        start.append(block)
        end = _LINE_END.search(tail + block)
        tail = b"\r" if block.endswith(b"\r") else b""
        if (end and end.end() < len(end.string)) or sum(map(len, start)) > LONGEST:
            break  # what follows a CR is known
    if end is None or end.group() != b"\r":
        yield from chain(start, blocks)
        return
    note(path, "its lines end in CR alone, as on old Macs")
    tail = b""
    for block in chain(start, blocks):
        whole = tail + block
        tail = b"\r" if whole.endswith(b"\r") else b""
        yield whole.removesuffix(tail).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    yield tail.replace(b"\r", b"\n")


def _split(path: Path, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines, each with its LF; the last may have none."""
    number, size = 1, 0
    pieces: list[bytes] = []
    for block in blocks:
        for piece in io.BytesIO(block):
            pieces.append(piece)
            size += len(piece)
            if size > LONGEST:
                raise DataError(
                    f"{path}:{number}: the line is longer than {size_text(LONGEST)}; "
                    "split it into several records"
                )
            if piece.endswith(b"\n"):
                yield b"".join(pieces)
                number, size, pieces = number + 1, 0, []
    if pieces:
        yield b"".join(pieces)
