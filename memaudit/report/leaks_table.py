"""The short table of what kind of thing leaked, as a terminal shows it.

Knows Rich and the section ``sensitive`` of a report. Shows categories and counts: of what was
found it knows no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from memaudit.report.leaks import leak_rows
from memaudit.report.rendering import titled_table


def leak_table(section: Mapping[str, Any] | None) -> Iterator[Table]:
    """Categories of which the data holds any, with the windows that do and the extracted ones.

    section: as report.json has it. Nothing at all comes where nothing was found or looked for.
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
        "windows: whose suffix holds such a thing; then how many of them are extracted, any: by"
    )
    caption += " at least one attack on the model"
    caption += f"; not looked for: {left_out}" if left_out else ""
    table.caption = Text(caption, style="dim")
    table.caption_justify = "left"
    yield table
