"""The page's tables of evidence: what kind of thing leaked, what had been known before the
fine-tuning, and what was and was not tested.

Knows the document. Knows nothing of markup: the page escapes whatever stands here.
"""

from __future__ import annotations

from memaudit.report.leaks import leak_rows
from memaudit.report.origin_reading import HEADS, MORE_HEADS, ORIGIN_LEGEND, origin_rows
from memaudit.report.page_figures import Card
from memaudit.report.report_json import Document

_MOST_ROWS = 100


def leak_cards(document: Document) -> list[Card]:
    """A table of the categories that the suffixes hold; none where nothing was found."""
    section = document["sensitive"]
    attacks, rows, left_out = leak_rows(section)
    if not rows:
        return []
    says = (
        f"Windows whose suffix holds such a thing, and how many are extracted. {section['scope']}"
    )
    says += f" Not looked for: {left_out}." if left_out else ""
    head = ["category", "windows", "extracted", *attacks]
    return [Card("sensitive", "Sensitive content", says, "", head, rows[:_MOST_ROWS])]


def origin_cards(document: Document) -> list[Card]:
    """What was known before the fine-tuning, of the data and of the controls."""
    section = document["reference"]
    if section is None:
        return []
    titles = {"data": "Known before, or leaked by the fine-tuning", "controls": "The same controls"}
    head = [*HEADS, *MORE_HEADS]
    return [
        Card(f"origin-{part}", title, f"{section['scope']} {ORIGIN_LEGEND}", "", head, rows)
        for part, title in titles.items()
        if (rows := origin_rows(document, part))
    ]


def framework_rows(document: Document) -> list[tuple[str, str, str, str, str]]:
    """Framework, reference, what it asks, whether that was tested, and what was done."""
    return [
        (row["framework"], row["reference"], row["asks"], row["tested"], row["did"])
        for row in document["frameworks"][:_MOST_ROWS]
    ]
