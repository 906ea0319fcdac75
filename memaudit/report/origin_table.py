"""Terminal tables of windows known before the fine-tuning or leaked by it.

Knows Rich, the width, and the rows that every format shows.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from memaudit.report.origin_reading import HEADS, MORE_HEADS, ORIGIN_LEGEND, origin_rows
from memaudit.report.rendering import harmless, prose, titled_table
from memaudit.report.report_json import Document

_WIDE = 130
"""Least width with room for the NLL."""


def origin_tables(document: Document, width: int) -> Iterator[Table]:
    """Yield tables for data and controls, and a legend; nothing without a reference."""
    titles = {
        "data": "Known before the fine-tuning, or leaked by it",
        "controls": "The same for the controls",
    }
    tables = {title: origin_rows(document, part) for part, title in titles.items()}
    for title, rows in tables.items():
        if rows:
            yield _table(title, rows, width >= _WIDE)
    if any(tables.values()):
        yield prose(harmless(ORIGIN_LEGEND, "dim"))


def _table(title: str, rows: list[list[str]], wide: bool) -> Table:
    table = titled_table(title)
    heads = [*HEADS, *(MORE_HEADS if wide else MORE_HEADS[:1])]
    table.add_column(heads[0], no_wrap=True)
    for head in heads[1:]:
        table.add_column(Text(head), justify="right")
    for row in rows:
        table.add_row(*map(harmless, row[: len(heads)]))
    return table
