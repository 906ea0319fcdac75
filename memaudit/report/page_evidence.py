"""The page's tables of evidence: what kind of thing leaked, and what was and was not tested.

Knows the document. Knows nothing of markup: the page escapes whatever stands here.
"""

from __future__ import annotations

from memaudit.report.leaks import leak_rows
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


def framework_rows(document: Document) -> list[tuple[str, str, str, str, str]]:
    """Framework, reference, what it asks, whether that was tested, and what was done."""
    return [
        (row["framework"], row["reference"], row["asks"], row["tested"], row["did"])
        for row in document["frameworks"][:_MOST_ROWS]
    ]
