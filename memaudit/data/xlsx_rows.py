"""Rows of the first worksheet of an Excel workbook, each as a mapping of columns.

Knows openpyxl. Must not know which columns make a sample, beyond the names that a header must have.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError
from zipfile import BadZipFile

from memaudit.data.csv_rows import Row, check_columns, without_empty_forms
from memaudit.data.forms import Naming
from memaudit.data.packing import Note, check_rows, check_unpacked
from memaudit.data.raw_files import LONGEST, size_text
from memaudit.data.zipped import is_zip, opened_zip
from memaudit.errors import DataError
from memaudit.system.files import open_regular

_BROKEN = (
    *(ParseError, BadZipFile, zlib.error, EOFError),
    *(KeyError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError),
)
"""Exceptions of openpyxl for a damaged workbook: it checks little of what it reads."""


def xlsx_rows(path: Path, note: Note, naming: Naming) -> Iterator[Row]:
    """Yield every row under the header of the first worksheet, in order.

    Numbers become text as they are stored, formulas their last result. Raises DataError if openpyxl
    is missing, or the file is no workbook or unpacks to more than text does.
    """
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            f"{path}: reading .xlsx needs the package openpyxl: pip install 'memaudit-dsp[xlsx]', "
            "or export the sheet as CSV UTF-8"
        ) from None
    damaged = DataError(
        f"{path}: not an Excel workbook, or damaged; save it again as .xlsx or .csv"
    )
    if not is_zip(path):
        raise damaged
    with opened_zip(path) as archive:
        check_unpacked(path, sum(member.file_size for member in archive.infolist()))
    with open_regular(path) as file:
        try:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            sheets = len(book.worksheets)
            rows = _sheet_rows(path, book.worksheets[0])
            header = next(rows, None)
        except _BROKEN:
            raise damaged from None
        if sheets > 1:
            note(path, f"read the first of its {sheets:,} worksheets alone")
        if header is None:
            return
        names = ["" if cell is None else str(cell).strip() for cell in header[1]]
        check_columns(f"{path}:{header[0]}", names, naming)
        while True:
            try:
                row = next(rows, None)
            except _BROKEN:
                raise damaged from None
            if row is None:
                return
            yield _row(*row, names)


def _sheet_rows(path: Path, sheet: Any) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield the rows of a sheet that are not blank, with their numbers, without blank cells behind.

    A row may claim to be any row: all before it are blank then, and those are counted.
    """
    sheet.reset_dimensions()  # the file may claim a million columns, each a cell of every row
    for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
        last = max((at for at, cell in enumerate(cells, 1) if cell is not None), default=0)
        check_rows(path, number)
        if sum(len(cell) for cell in cells if isinstance(cell, str)) > LONGEST:
            raise DataError(f"{path}:{number}: the row is longer than {size_text(LONGEST)}")
        if last:
            yield number, cells[:last]


def _row(number: int, cells: tuple[Any, ...], names: list[str]) -> Row:
    if len(cells) > len(names):
        return Row(number, {}, f"{len(cells)} cells under a header of {len(names)}")
    values = [*cells, *[None] * (len(names) - len(cells))]
    fields = {name: _text(cell) for name, cell in zip(names, values, strict=True) if name}
    return Row(number, without_empty_forms(fields), None)


def _text(cell: Any) -> Any:
    """Return a number as its text; what Excel shows of a date depends on its format."""
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell) if isinstance(cell, (int, float)) else cell
