"""Rows of delimited text tables, each as a mapping of columns.

Knows delimiters, quotes and headers. Must not know which columns make a sample, beyond the names
that a header must have.

Blanks belong to a cell (RFC 4180), unless the header also has them after its delimiters.
"""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from memaudit.data.charsets import is_unicode
from memaudit.data.forms import FORMS, USUAL, Naming, has_form, missing_columns
from memaudit.data.packing import Note
from memaudit.data.raw_files import (
    LONGEST,
    MARK,
    note_mark,
    read_marked_lines,
    size_text,
)
from memaudit.errors import DataError

NOT_UTF8 = "not UTF-8 text"
"""Reason for a record with damaged bytes."""

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_SEP = re.compile(r"\"?sep=([,;\t|])\"?\s*", re.IGNORECASE)
"""Line before the header that names the delimiter for Excel."""
_BAD_QUOTES = "malformed CSV; check its quotes"


class Row(NamedTuple):
    """A row of a table."""

    line: int
    """Line on which it starts, from 1."""
    fields: Mapping[str, Any]
    problem: str | None
    """Reason why it cannot be used; None if it was read without errors."""


class _Header(NamedTuple):
    """Column names and format of a table."""

    names: list[str]
    delimiter: str
    skips_blanks: bool
    """True if blanks after a delimiter do not belong to the cell."""


def csv_rows(path: Path, usual: str, note: Note, naming: Naming = USUAL) -> Iterator[Row]:
    """Yield every row under the header, in order. Columns without a name are left out.

    usual: delimiter expected from the file's name; the header may show another.
    """
    csv.field_size_limit(LONGEST)  # characters; the default is less than a long document
    lines = _Lines(path, note)
    first = _first_line(lines)
    if first is None:
        return
    header = _read_header(path, lines, first, usual, note, naming)
    reader = _reader(lines, header)
    is_repeated = False
    while True:
        line = lines.number + 1
        lines.row_bytes = 0
        try:
            cells = next(reader, None)
        except csv.Error:
            yield Row(line, {}, _BAD_QUOTES)
            continue
        if cells is None:
            return
        if _is_header(path, line, header, cells):
            if not is_repeated:
                note(path, f"left out the second header on line {line}, where files were joined")
            is_repeated = True
        elif cells:  # a blank line has none
            yield _row(lines, line, header, cells)


class _Lines:
    """Lines of a file, for rows that may span several."""

    def __init__(self, path: Path, note: Note) -> None:
        self._path = path
        self._note = note
        self._lines = read_marked_lines(path, note)
        self._has_marks = False
        self.number, self.text = 0, ""
        """Number and text of the last line read."""
        self.row_bytes = 0
        """Bytes of the current row; the reader of rows sets it to 0 before each."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        text = line.text
        if self.row_bytes == 0 and text.startswith(MARK):  # within a row it is part of a cell
            if not self._has_marks:
                note_mark(self._path, line.number, self._note)
            self._has_marks = True
            text = text.removeprefix(MARK)
        self.number, self.text = line.number, text
        self.row_bytes += line.size
        if self.row_bytes > LONGEST:
            raise DataError(
                f"{self._path}:{line.number}: the row that contains this line is longer than "
                f"{size_text(LONGEST)}; check its quotes"
            )
        return text  # undecodable bytes are lone surrogates, so that only their row is bad


def _first_line(lines: _Lines) -> tuple[str, str | None] | None:
    """Return the header's first line, and the delimiter if a line before it names one."""
    first = next((text for text in lines if text.strip()), None)
    named = _SEP.fullmatch(first) if first is not None else None
    if named:
        first = next((text for text in lines if text.strip()), None)
    return None if first is None else (first, named[1] if named else None)


def _reader(lines: Iterable[str], header: _Header) -> Iterator[list[str]]:
    return csv.reader(
        lines, strict=True, delimiter=header.delimiter, skipinitialspace=header.skips_blanks
    )


def _read_header(
    path: Path,
    lines: _Lines,
    first: tuple[str, str | None],
    usual: str,
    note: Note,
    naming: Naming,
) -> _Header:
    """Read the column names and detect the delimiter from them."""
    where = f"{path}:{lines.number}"
    text, named = first
    delimiter = named or _delimiter(text, usual, naming)
    blanks = any(name.startswith(" ") for name in _split(text, delimiter))
    header = _Header([], delimiter, blanks)
    try:
        names = [name.strip() for name in next(_reader(chain([text], lines), header), [])]
    except csv.Error:
        raise DataError(f"{where}: the header is malformed CSV; check its quotes") from None
    if not is_unicode("".join(names)):
        raise DataError(f"{where}: {NOT_UTF8}; convert it: iconv -t UTF-8")
    check_columns(where, names, naming)
    if blanks and any(len(form) > 1 and set(form) <= set(names) for form in naming.forms.values()):
        raise DataError(
            f"{where}: a blank after a delimiter may or may not belong to the suffix; "
            "write the file without blanks after delimiters"
        )
    if blanks:
        note(path, "left out the blanks after its delimiters, as its header has them too")
    if delimiter != usual and not named:
        note(path, f"its columns are separated by {_DELIMITERS[delimiter]}, as its header shows")
    return _Header(names, delimiter, blanks)


def check_columns(where: str, names: Iterable[str], naming: Naming) -> None:
    """Raise DataError if a header names a column twice, or none that can make a sample."""
    columns = [name for name in names if name]
    if len(columns) != len(set(columns)):
        raise DataError(f"{where}: the header names a column twice; rename one")
    if not has_form(columns, naming):
        raise DataError(f"{where}: {missing_columns(columns, naming)}")


def without_empty_forms(fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out empty forms next to a filled one: tables have no null, so they are absent."""
    filled = [form for form in FORMS.values() if any(fields.get(name) for name in form)]
    names = {name for form in filled for name in form}
    empty = {name for form in FORMS.values() if form not in filled for name in form} - names
    return {name: cell for name, cell in fields.items() if not (filled and name in empty)}


def _delimiter(text: str, usual: str, naming: Naming) -> str:
    """Return the delimiter with which a header's names can make a sample."""
    for delimiter in (usual, *_DELIMITERS):
        if has_form((name.strip() for name in _split(text, delimiter)), naming):
            return delimiter
    return max((usual, *_DELIMITERS), key=lambda delimiter: len(_split(text, delimiter)))


def _split(text: str, delimiter: str) -> list[str]:
    """Split a line into cells by a delimiter; empty if its quotes are malformed."""
    with contextlib.suppress(csv.Error):
        return next(csv.reader([text], delimiter=delimiter), [])
    return []


def _is_header(path: Path, line: int, header: _Header, cells: list[str]) -> bool:
    """Return True if a row repeats the header, as in files that were joined.

    Raises DataError if it names the same columns in another order: the rows below would be
    misread.
    """
    names = [cell.strip() for cell in cells]
    if len(names) < 2 or sorted(names) != sorted(header.names):
        return False
    if names != header.names:
        raise DataError(
            f"{path}:{line}: a second header names the columns in another order; "
            "give the joined files separately"
        )
    return True


def _has_blank_before_quote(text: str, header: _Header) -> bool:
    """Return True if a quote would enclose a cell but for the blank before it."""
    if f'{header.delimiter} "' not in text:
        return False
    strict, tolerant = (
        [cell.lstrip(" ") for cell in _cells(text, variant)]
        for variant in (header, header._replace(skips_blanks=True))
    )
    return strict != tolerant


def _cells(text: str, header: _Header) -> list[str]:
    """Split a line into cells as the header is written; empty if its quotes are malformed."""
    with contextlib.suppress(csv.Error):
        return next(_reader([text], header), [])
    return []


def _row(lines: _Lines, line: int, header: _Header, cells: list[str]) -> Row:
    names = header.names
    if len(cells) != len(names):
        return Row(line, {}, f"{len(cells)} cells under a header of {len(names)}")
    if lines.number == line and _has_blank_before_quote(lines.text, header):
        return Row(line, {}, "malformed CSV; there is a blank before a quote")
    if header.delimiter == "\t" and any("\t" in cell and "\n" in cell for cell in cells):
        return Row(line, {}, "malformed CSV; a quoted cell spans lines")
    fields = {name: cell for name, cell in zip(names, cells, strict=True) if name}
    problem = None if is_unicode("".join(cells)) else NOT_UTF8
    return Row(line, without_empty_forms(fields), problem)
