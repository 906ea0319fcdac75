"""Cells of the tables: one row of a CSV file, as text that is safe in a spreadsheet.

Knows how to make a cell harmless and how to write it back as it was read. Knows nothing of files:
write the text as UTF-8 without newline translation.

Text from the data (``sample_id``, ``group``, ``reason``, ``categories`` and the columns passed
through) is quoted. A spreadsheet would run a cell that starts with ``=``, ``+``, ``-``, ``@``, one
of their other forms, a TAB or a CR, and some split cells at ``;`` or ``|``, quoted or not. So text
with such a start, also after blanks and quotation marks, gets an apostrophe before it, and so does
such a start after each ``;`` or ``|``. A number (``-1``, ``+3.5e2``) gets none. A start that
already has apostrophes gets one more, so that removing one always restores the text. JSON lines
(`to_jsonl`) need none of this.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from memaudit.report.columns import OWN, TEXTS
from memaudit.report.wording import json_text, neutral

_TEXT = ("sample_id", "group", "reason", "categories")
"""Own columns that hold text from the data, or name kinds of it."""
_OTHER_FORMS = "\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212"
_RUN_BY_SPREADSHEETS = (*"=+-@", *_OTHER_FORMS, "\t", "\r")
"""Starts of a formula: ASCII, full-width and small signs, and the minus sign (OWASP, CSV
injection)."""
_RISKY = tuple(neutral(start) for start in _RUN_BY_SPREADSHEETS)
_CELL_SEPARATOR = re.compile(r"([;|])")
"""Cell separators in locales with a decimal comma."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def is_text(name: str) -> bool:
    """True if a column holds text from the data."""
    return name not in OWN or name in (*_TEXT, *TEXTS)


def header_line(names: Iterable[str]) -> str:
    """Return the first line of a table."""
    return line(name if name in OWN else quoted(name) for name in names)


def quoted(text: str) -> str:
    """Quote a cell; a blank one stays blank."""
    return '"' + text.replace('"', '""') + '"' if text else ""


def line(cells: Iterable[str]) -> str:
    """Return a row (RFC 4180)."""
    return ",".join(cells) + "\r\n"


def to_csv(table: pd.DataFrame) -> str:
    """Restore the file from the table that was read back, byte for byte."""
    cells = [_cells(str(name), table[name]) for name in table.columns]
    header = header_line(cell(str(name)) for name in table.columns)
    return header + "".join(map(line, zip(*cells, strict=True)))


def _cells(name: str, column: pd.Series[Any]) -> list[str]:
    """Return a column's cells as in the file."""
    if pd.api.types.is_float_dtype(column.dtype):
        return [figure(value) for value in column.tolist()]
    if pd.api.types.is_numeric_dtype(column.dtype):
        return ["" if value is pd.NA else str(value) for value in column.tolist()]
    cells = [cell(text) for text in column.tolist()]
    return [quoted(text) for text in cells] if is_text(name) else cells


def to_jsonl(table: pd.DataFrame) -> str:
    """Return the rows of the table that was read back, as JSON lines with the data's own text.

    Control characters stay visible escapes. Numbers that are not finite are null.
    """
    names = [str(name) for name in table.columns]
    columns = [_json_values(table[name]) for name in table.columns]
    rows = zip(*columns, strict=True)
    return "".join(json_text(dict(zip(names, row, strict=True)), indent=None) for row in rows)


def to_parquet(table: pd.DataFrame) -> bytes:
    """Return the rows of the table that was read back as a Parquet file, typed, nothing escaped."""
    return bytes(table.to_parquet(index=False))


def _json_values(column: pd.Series[Any]) -> list[Any]:
    if pd.api.types.is_float_dtype(column.dtype):
        return [value if math.isfinite(value) else None for value in column.tolist()]
    return [None if value is pd.NA else value for value in column.tolist()]


def cell(text: str) -> str:
    """Return untrusted text as a cell: no control characters, nothing that a spreadsheet runs.

    `cell` of `unescape` of a cell is the same cell.
    """
    harmless = neutral(text)
    if _NUMBER.fullmatch(harmless):
        return harmless
    return "".join(
        f"'{part}" if _is_run(part) else part for part in _CELL_SEPARATOR.split(harmless)
    )


def unescape(escaped: str) -> str:
    """Return the text of a cell that `cell` made, without the apostrophes for spreadsheets.

    Control characters stay visible escapes.
    """
    harmless = neutral(escaped)
    parts = _CELL_SEPARATOR.split(harmless)
    return "".join(part[1:] if part.startswith("'") and _is_run(part) else part for part in parts)


def _is_run(part: str) -> bool:
    """True if a spreadsheet would run the text as a formula, without the apostrophes before it."""
    return part.lstrip("'").lstrip(' "\u00a0\u3000').startswith(_RISKY)


def figure(value: float) -> str:
    """Format with six digits; blank for NaN. Adding 0 turns -0 into 0."""
    return "" if np.isnan(value) else format(value + 0.0, ".6g")
