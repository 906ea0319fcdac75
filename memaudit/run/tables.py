"""Read the tables of a run: ``samples.csv`` and ``windows.csv``.

Knows their form and trusts none of it: every cell is read as its column's type, and values that no
scan writes are refused in one line that quotes nothing.
"""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from memaudit.config.settings import MOST_COLUMNS
from memaudit.data.fingerprints import FINGERPRINT, SAMPLE_FINGERPRINT
from memaudit.errors import UsageError
from memaudit.report.cells import is_text, unescape
from memaudit.report.columns import OWN, REFERENCE_COLUMNS, SAMPLE_COLUMNS, WINDOW_COLUMNS
from memaudit.report.wording import SCHEMA_VERSION, neutral
from memaudit.system.files import open_regular
from memaudit.system.untrusted_json import MAX_DIGITS

SAMPLES, WINDOWS = "samples.csv", "windows.csv"

_LONGEST_TABLE = 4 << 30
"""Bytes; ten million windows without text take about 2.5 GiB."""
_LONGEST_HEADER = 1 << 20
"""Bytes of a table's first line."""
_MAX_COLUMNS = len(OWN) + MOST_COLUMNS
"""Columns of a table."""
_STRINGS = ("role", "fingerprint", "status")
"""Columns of strings that are not from the data."""
_WHOLE = ("schema_version", "line")
_MAYBE_WHOLE = ("window", "windows", "cluster", "fold")
_COUNTED = ("exact_", "extracted_", "windows_exact_", "matched_", "longest_run_")
"""Starts of an attack's counts, blank where it did not run; other own columns are figures."""
_CHANGED = "is not a table that a scan writes; it was changed or cut off, so scan again"


def read_windows(path: Path) -> pd.DataFrame:
    """Read ``windows.csv``: a row for each window, and for each record without one.

    Whole numbers are ``int64``, or ``Int64`` where a skipped row or an attack that did not run
    leaves them blank; figures are ``float64``. The rest is text with the escapes for spreadsheets
    removed (control characters stay visible escapes), empty where there is none.

    Raises UsageError, in one line, if it is not a table that a scan of this version writes.
    """
    windows = _read_table(path, WINDOW_COLUMNS, REFERENCE_COLUMNS)
    _check_values(path, windows, "window", FINGERPRINT)
    return windows.rename(columns=unescape)


def read_samples(path: Path) -> pd.DataFrame:
    """Read ``samples.csv``: a row for each record. As `read_windows`."""
    samples = _read_table(path, SAMPLE_COLUMNS)
    _check_values(path, samples, "windows", SAMPLE_FINGERPRINT)
    return samples.rename(columns=unescape)


def _read_table(path: Path, columns: Iterable[str], together: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table. together: columns of which it has all or none."""
    try:
        if not path.is_file():
            raise UsageError(f"{path.parent}: holds no finished run (no {path.name})")
        names = _header(path, columns, together)
        try:
            table = _as_frame(path, names)
        except (ValueError, TypeError, OverflowError, Warning):  # pandas would quote a cell
            raise UsageError(_bad_cell(path, names)) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    for name in names:
        if is_text(name) or name in _STRINGS:
            table[name] = table[name].map(unescape).astype("str")
    return table


def _header(path: Path, columns: Iterable[str], together: Sequence[str]) -> list[str]:
    """Read the names of the columns."""
    with open_regular(path) as file:
        line = file.readline(_LONGEST_HEADER)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        ended = file.read(1) == b"\n"
    if size > _LONGEST_TABLE:
        raise UsageError(f"{path}: is larger than the limit of {_LONGEST_TABLE >> 30} GiB")
    try:
        names = next(csv.reader([line.decode("utf-8-sig")], strict=True), [])
    except (UnicodeDecodeError, csv.Error):
        raise UsageError(f"{path}: is not a {path.name} of memaudit") from None
    wanted = list(columns)
    if not set(together).isdisjoint(names):
        wanted += together
    missing = [name for name in wanted if name not in names]
    if len(missing) == len(wanted) or not line.endswith(b"\n"):
        raise UsageError(f"{path}: is not a {path.name} of memaudit")
    if missing:
        raise UsageError(
            f"{path}: has no column {missing[0]}; another version of memaudit wrote it"
        )
    if len(names) > _MAX_COLUMNS or len(set(map(unescape, names))) < len(names) or not ended:
        raise UsageError(f"{path}: {_CHANGED}")
    return names


def _dtype(name: str) -> str:
    if is_text(name) or name in _STRINGS:
        return "str"
    if name in _WHOLE:
        return "int64"
    is_count = name.endswith("_tokens") or name == "tokens"
    if is_count or name in _MAYBE_WHOLE or name.removeprefix("reference_").startswith(_COUNTED):
        return "Int64"
    return "float64"


def _as_frame(path: Path, names: list[str]) -> pd.DataFrame:
    """Read every cell as its column's type; only blank cells count as missing."""
    dtypes: dict[Any, str] = {name: _dtype(name) for name in names}
    blank = {name: [""] for name, dtype in dtypes.items() if dtype != "str"}
    with path.open(encoding="utf-8-sig", newline="") as file, warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows that are too long
        warnings.simplefilter("error", RuntimeWarning)  # figures too large for a whole number
        return pd.read_csv(
            file, dtype=dtypes, na_values=blank, keep_default_na=False, index_col=False, engine="c"
        )


def _bad_cell(path: Path, names: list[str]) -> str:
    """Describe the first bad cell of a file that cannot be read as a table."""
    whole = f"{path}: {_CHANGED}"
    line = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.reader(file, strict=True):
                if len(row) != len(names):
                    return f"{whole} (row {line})"
                for name, text in zip(names, row, strict=True) if line > 1 else ():
                    if not _fits(text, _dtype(name)):
                        return f"{path}: {neutral(name)} in row {line} is not a number; scan again"
                line += 1
    except (ValueError, csv.Error):
        pass
    return whole


def _fits(text: str, dtype: str) -> bool:
    if dtype == "str":
        return True
    if dtype == "float64":
        return pd.notna(pd.to_numeric(text or "0", errors="coerce"))
    digits = text.lstrip("-")
    return (digits.isdecimal() and len(digits) <= MAX_DIGITS) or (dtype == "Int64" and not text)


def _check_values(path: Path, table: pd.DataFrame, number: str, fingerprint: str) -> None:
    """Refuse cells of the right type with values that no scan writes.

    number: column that counts, or numbers, windows. fingerprint: regular expression of them.
    """
    scored = table["status"] == "scored"
    allowed = {
        "schema_version": table["schema_version"] == SCHEMA_VERSION,
        "role": table["role"].isin(["data", "control"]),
        "status": scored | (table["status"] == "skipped"),
        number: table[number].notna() | ~scored,
        "cluster": table["cluster"].notna() | ~scored,
        "fingerprint": table["fingerprint"].str.fullmatch(fingerprint) | ~scored,
    }
    repeated = table[scored].duplicated(["role", "fingerprint"])
    allowed["fingerprint"] &= ~repeated.reindex(table.index, fill_value=False)
    for name in table.columns:
        if name not in OWN:
            continue
        if name.startswith(("exact_", "extracted_", "reference_exact_")):
            allowed[name] = table[name].isin([0, 1]) | table[name].isna()
        if name.startswith(("fractional_", "reference_fractional_")):
            allowed[name] = table[name].between(0, 1) | table[name].isna()
        if name.endswith("tokens") or name == "windows":
            least = 0 if name in ("prefix_tokens", "template_tokens") else 1
            allowed[name] = table[name].ge(least) | ~scored
    if "new_tokens" in table:
        for name in ("new_tokens", "template_tokens"):
            fits = table[name].ge(0) & table[name].le(table["suffix_tokens"])
            allowed[f"{name} "] = fits.fillna(False) | ~scored
    for name, good in allowed.items():
        if not bool(good.fillna(False).all()):
            raise UsageError(
                f"{path}: column {name.strip()} holds values that no scan writes; scan again"
            )
