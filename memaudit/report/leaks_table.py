"""The short table of what kind of thing leaked, as a terminal shows it.

Knows Rich. Shows categories and counts, never what was found.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from memaudit.report.leaks import TITLES, leaks
from memaudit.report.rendering import titled_table
from memaudit.result import ScanResult


def leak_table(result: ScanResult) -> Iterator[Table]:
    """Categories of which the data holds any, with the windows that do and the extracted ones.

    Nothing at all where nothing was found or looked for.
    """
    found = [leak for leak in leaks(result) if leak.windows]
    if not found or result.sensitive is None:
        return
    table = titled_table("Sensitive content in the suffixes")
    attacks = [attack.attack for attack in result.attacks]
    table.add_column("category", no_wrap=True)
    for head in ("windows", "extracted", *attacks):
        table.add_column(head, justify="right")
    for leak in found:
        figures = (leak.windows, leak.extracted, *(leak.extracted_by[name] for name in attacks))
        table.add_row(TITLES[leak.category], *map(str, figures))
    left_out = ", ".join(TITLES[category] for category in result.sensitive.missing)
    caption = "extracted: windows of which an attack on the model extracts the whole suffix"
    caption += f"; not looked for: {left_out}" if left_out else ""
    table.caption = Text(caption, style="dim")
    table.caption_justify = "left"
    yield table
