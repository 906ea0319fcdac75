"""Evidence tables on the page: sensitive content, origins of windows, and frameworks.

Knows the document. Knows nothing of markup: the page escapes all text.
"""

from __future__ import annotations

from memaudit.report.leaks import leak_rows
from memaudit.report.origin_reading import HEADS, MORE_HEADS, ORIGIN_LEGEND, origin_rows
from memaudit.report.page_figures import Card
from memaudit.report.report_json import Document

_MOST_ROWS = 100


def leak_cards(document: Document) -> list[Card]:
    """Return a table of the sensitive categories in the suffixes; empty if none was found."""
    section = document["sensitive"]
    attacks, rows, left_out = leak_rows(section)
    if not rows:
        return []
    caption = (
        "Windows whose suffix holds an item of the category, and how many of them are extracted. "
        f"{section['scope']}"
    )
    caption += f" Not searched: {left_out}." if left_out else ""
    head = ["category", "windows", "extracted", *attacks]
    return [Card("sensitive", "Sensitive content", caption, "", head, rows[:_MOST_ROWS])]


def origin_cards(document: Document) -> list[Card]:
    """Return tables of windows known before the fine-tuning, for data and controls."""
    section = document["reference"]
    if section is None:
        return []
    titles = {"data": "Known before, or leaked by the fine-tuning", "controls": "Controls"}
    head = [*HEADS, *MORE_HEADS]
    return [
        Card(f"origin-{part}", title, f"{section['scope']} {ORIGIN_LEGEND}", "", head, rows)
        for part, title in titles.items()
        if (rows := origin_rows(document, part))
    ]


def framework_rows(document: Document) -> list[tuple[str, str, str, str, str]]:
    """Return rows of framework, reference, request, whether tested, and what was done."""
    return [
        (row["framework"], row["reference"], row["asks"], row["tested"], row["did"])
        for row in document["frameworks"][:_MOST_ROWS]
    ]
