"""Terminal table of sensitive content.

Knows Rich and the section ``sensitive`` of a report, which holds categories and counts only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from memaudit.report.leaks import leak_rows
from memaudit.report.rendering import titled_table


def leak_table(section: Mapping[str, Any] | None) -> Iterator[Table]:
    """Yield a table of the categories in the data, with their windows and the extracted ones.

    section: ``sensitive`` of report.json. Yields nothing if nothing was found or searched.
    """
    attacks, rows, left_out = leak_rows(section)
    if not rows:
        return
    table = titled_table("Sensitive content in the suffixes")
    table.add_column("category", no_wrap=True)
    for head in ("windows", "any", *attacks):
        table.add_column(head, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    caption = (
        "windows: those whose suffix holds an item of the category; then how many of them are "
        "extracted, any: by at least one attack on the model"
    )
    caption += f"; not searched: {left_out}" if left_out else ""
    table.caption = Text(caption, style="dim")
    table.caption_justify = "left"
    yield table
