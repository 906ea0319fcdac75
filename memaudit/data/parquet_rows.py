"""Rows of Parquet files, each as a mapping of columns, one row in memory at a time.

Knows Arrow. Must not know which columns make a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from memaudit.data.packing import PARQUET, check_rows, check_unpacked, refuse_document
from memaudit.errors import DataError

MAX_ROWS = 1024
"""Largest number of rows in a batch."""
_BATCH = 64 << 20
"""Target size of a batch, in unpacked bytes."""

Row = tuple[Mapping[str, Any], str | None]
"""The columns, and the reason why the row cannot be used; None if it was read without errors."""


def parquet_rows(path: Path) -> Iterator[Row]:
    """Yield every row, in order.

    Raises DataError if the file is not Parquet, is damaged, or unpacks to more than text does
    or to too many rows.
    """
    import pyarrow  # slow to load, and only this format needs it
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            rows = _batch_rows(path, file.metadata)
            texts = _text_columns(file.metadata.schema)
        # A dictionary read as a dictionary takes memory once, not once a row.
        with parquet.ParquetFile(path, read_dictionary=texts) as file:
            unpacked = number = 0
            for batch in file.iter_batches(batch_size=rows):
                for place in range(len(batch)):
                    row = _row(batch, place, pyarrow.ArrowException)
                    unpacked, number = unpacked + _size(row[0]), number + 1
                    check_unpacked(path, unpacked)
                    check_rows(path, number)
                    yield row
    except (pyarrow.ArrowException, UnicodeDecodeError):  # the latter for a column's name
        with path.open("rb") as raw:
            refuse_document(path, raw.read(1024), but=PARQUET)
        raise DataError(f"{path}: not a Parquet file, or damaged; write it again") from None


def _batch_rows(path: Path, metadata: Any) -> int:
    """Return the number of rows for a batch, from the sizes that the file declares."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    sizes = [group.total_byte_size for group in groups]  # unpacked
    check_unpacked(path, sum(sizes))
    widest = max(
        (size // max(1, g.num_rows) for size, g in zip(sizes, groups, strict=True)), default=0
    )
    return max(1, min(MAX_ROWS, _BATCH // max(1, widest)))


def _text_columns(schema: Any) -> list[str]:
    columns = [schema.column(number) for number in range(len(schema))]
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _row(batch: Any, place: int, arrow_error: type[Exception]) -> Row:
    fields: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            fields[name] = column[place].as_py()
        except UnicodeDecodeError:
            return fields, "not UTF-8 text"
        # Such as dates without a year; pytz, which older pandas brings, has its own LookupError.
        except (arrow_error, ValueError, OverflowError, LookupError):
            return fields, f"column {name} holds a value that exists only in Parquet"
    return fields, None


def _size(value: Any) -> int:
    """Count the characters and bytes of all text in a value."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, (list, tuple)) else 0
