"""What was known before the fine-tuning and what it leaked, as a terminal shows it.

Knows Rich, the width there is, and the rows that every format shows.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from memaudit.report.origin_reading import HEADS, MORE_HEADS, ORIGIN_LEGEND, origin_rows
from memaudit.report.rendering import harmless, prose, titled_table
from memaudit.report.report_json import Document

_WIDE = 130
"""From here on there is room for the test and the NLL."""


def origin_tables(document: Document, width: int) -> Iterator[Table]:
    """A table for the data, one for the controls, and a legend; nothing without a reference."""
    titles = {
        "data": "Known before the fine-tuning, or leaked by it",
        "controls": "The same of the controls",
    }
    shown = {title: origin_rows(document, part) for part, title in titles.items()}
    for title, rows in shown.items():
        if rows:
            yield _table(title, rows, width >= _WIDE)
    if any(shown.values()):
        yield prose(harmless(ORIGIN_LEGEND, "dim"))


def _table(title: str, rows: list[list[str]], wide: bool) -> Table:
    table = titled_table(title)
    heads = [*HEADS, *(MORE_HEADS if wide else MORE_HEADS[:1])]
    first, *others = heads
    table.add_column(first, no_wrap=True)
    for head in others:
        table.add_column(Text(head), justify="right")
    for row in rows:
        table.add_row(*map(harmless, row[: len(heads)]))
    return table
