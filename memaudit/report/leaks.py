"""Sensitive content: windows with items of each category, and the attacks that extract them.

Knows results. Knows nothing of formats, and never sees the items themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from memaudit.config.settings import AttackName
from memaudit.report.result import ScanResult
from memaudit.score.stats import Bools
from memaudit.sensitive.counting import Counts
from memaudit.sensitive.detectors import Category

TITLES: dict[Category, str] = {
    "key": "keys and tokens",
    "email": "e-mail addresses",
    "account": "bank accounts (IBAN)",
    "card": "payment cards",
    "phone": "phone numbers",
    "name": "names",
    "address": "postal addresses",
}
"""Category to its name in tables."""

SCOPE = (
    "Only the text of the suffixes was searched; items cut off at either end of a suffix "
    "may be missed. A window counts as extracted if every token of its suffix is."
)


class Leak(NamedTuple):
    """One category over the windows of one file."""

    category: Category
    windows: int
    """Windows whose suffix holds at least one item."""
    items: int
    """Items in all windows."""
    extracted: int
    """Windows that at least one attack on the model extracts exactly."""
    extracted_by: Mapping[AttackName, int]
    """Attack to the windows that it extracts exactly."""
    leaked: int | None
    """Extracted windows that no attack extracts from the reference: leaked by the fine-tuning.
    None without a reference."""


def leaks(result: ScanResult, part: Literal["data", "controls"] = "data") -> tuple[Leak, ...]:
    """Return every category that was searched in a part; empty if none was."""
    content = result.sensitive
    counts: Counts | None = None if content is None else getattr(content, part)
    if content is None or counts is None:
        return ()
    scores = {attack.attack: getattr(attack, part) for attack in result.attacks}
    scores = {name: windows for name, windows in scores.items() if windows is not None}
    reference = result.reference.attacks if result.reference else ()
    before = [known for attack in reference if (known := getattr(attack, part)) is not None]
    asked = [windows.exact for name, windows in scores.items() if name != "copy"]
    any_exact = _any(asked, len(counts))
    known = _any([windows.exact for windows in before], len(counts))
    found = []
    for column, category in enumerate(content.categories):
        holds = counts[:, column] > 0
        by = {name: int(np.count_nonzero(hit.exact & holds)) for name, hit in scores.items()}
        windows, extracted = int(holds.sum()), int(np.count_nonzero(any_exact & holds))
        since = int(np.count_nonzero(any_exact & ~known & holds)) if result.reference else None
        found.append(Leak(category, windows, int(counts[:, column].sum()), extracted, by, since))
    return tuple(found)


def _any(masks: Sequence[Bools], windows: int) -> Bools:
    """Return the windows in any mask; none without a mask."""
    return np.asarray(np.any([np.zeros(windows, dtype=bool), *masks], axis=0))


def sensitive_section(result: ScanResult) -> dict[str, Any] | None:
    """Return the section ``sensitive`` of report.json; None if nothing was searched."""
    content = result.sensitive
    if content is None:
        return None
    return {
        "scope": SCOPE,
        "looked_for": [
            {"category": category, "method": method} for category, method in content.methods.items()
        ],
        "not_looked_for": [
            {"category": category, "reason": reason} for category, reason in content.missing.items()
        ],
        "data": [_as_json(leak) for leak in leaks(result)],
        "controls": None
        if content.controls is None
        else [_as_json(leak) for leak in leaks(result, "controls")],
    }


def named_counts(categories: tuple[Category, ...], counts: Counts) -> str:
    """Return one window's counts (C,) as ``email:2 phone:1``; empty where it holds nothing."""
    both = zip(categories, counts.tolist(), strict=True)
    return " ".join(f"{category}:{items}" for category, items in both if items)


def _as_json(leak: Leak) -> dict[str, Any]:
    return {
        "category": leak.category,
        "windows": leak.windows,
        "found": leak.items,
        "extracted": leak.extracted,
        "extracted_by": dict(leak.extracted_by),
        "leaked": leak.leaked,
    }
