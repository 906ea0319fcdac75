"""What kind of thing leaked: windows that hold each category, and which attack extracts them.

Knows results. Knows nothing of formats, and never sees the things themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from memaudit.config.settings import AttackName
from memaudit.report.result import ScanResult
from memaudit.score.scores import WindowScores
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
"""Categories as a table names them."""


SCOPE = (
    "Text of the suffixes alone; what an end of a suffix cuts off may be missed. A window counts "
    "as extracted where every token of its suffix is."
)


class Leak(NamedTuple):
    """One category over the windows of one file."""

    category: Category
    windows: int
    """Whose suffix holds at least one such thing."""
    found: int
    """Such things in all of them."""
    extracted: int
    """Of the windows, those that at least one attack on the model extracts exactly."""
    extracted_by: Mapping[AttackName, int]
    """Of the windows, those that each attack extracts exactly."""
    leaked: int | None
    """Of those extracted, the windows that come out of no attack on the reference: leaked by the
    fine-tuning. None without a reference."""


def leaks(result: ScanResult) -> tuple[Leak, ...]:
    """Every category that was looked for in the data; none where nothing was."""
    if result.sensitive is None:
        return ()
    scores = {attack.attack: attack.data for attack in result.attacks}
    before = [one.data for one in result.reference.attacks] if result.reference else None
    return _leaks(result.sensitive.categories, result.sensitive.data, scores, before)


def control_leaks(result: ScanResult) -> tuple[Leak, ...] | None:
    """The same of the controls; None where there are none."""
    if result.sensitive is None or result.sensitive.controls is None:
        return None
    both = {attack.attack: attack.controls for attack in result.attacks}
    scores = {name: one for name, one in both.items() if one is not None}
    said = [one.controls for one in result.reference.attacks] if result.reference else None
    before = None if said is None else [one for one in said if one is not None]
    return _leaks(result.sensitive.categories, result.sensitive.controls, scores, before)


def sensitive_section(result: ScanResult) -> dict[str, Any] | None:
    """What report.json says of it; None where nothing was looked for."""
    found, controls = result.sensitive, control_leaks(result)
    if found is None:
        return None
    return {
        "scope": SCOPE,
        "looked_for": [
            {"category": category, "method": method} for category, method in found.methods.items()
        ],
        "not_looked_for": [
            {"category": category, "reason": reason} for category, reason in found.missing.items()
        ],
        "data": [_as_json(leak) for leak in leaks(result)],
        "controls": None if controls is None else [_as_json(leak) for leak in controls],
    }


def named_counts(categories: tuple[Category, ...], counts: Counts) -> str:
    """One window's counts (C,) as ``email:2 phone:1``; empty where it holds nothing."""
    both = zip(categories, counts.tolist(), strict=True)
    return " ".join(f"{category}:{found}" for category, found in both if found)


def leak_rows(section: Mapping[str, Any] | None) -> tuple[list[str], list[list[str]], str]:
    """Heads of attacks, rows and what was not looked for, of the section as report.json has it.

    A row for each category that the data hold: its title, windows, those extracted, those that
    each attack extracts and, with a reference, those that the fine-tuning leaked. None where
    nothing was found or looked for.
    """
    found = [leak for leak in section["data"] if leak["windows"]] if section else []
    if section is None or not found:
        return [], [], ""
    attacks = list(found[0]["extracted_by"])
    since = all(leak["leaked"] is not None for leak in found)
    rows = [
        [TITLES[leak["category"]], str(leak["windows"]), str(leak["extracted"])]
        + [str(leak["extracted_by"].get(attack, 0)) for attack in attacks]
        + ([str(leak["leaked"])] if since else [])
        for leak in found
    ]
    heads = [*attacks, *(["by fine-tuning"] if since else [])]
    return heads, rows, ", ".join(TITLES[one["category"]] for one in section["not_looked_for"])


def _as_json(leak: Leak) -> dict[str, Any]:
    return {**leak._asdict(), "extracted_by": dict(leak.extracted_by)}


def _leaks(
    categories: tuple[Category, ...],
    counts: Counts,
    scores: Mapping[AttackName, WindowScores],
    before: Sequence[WindowScores] | None,
) -> tuple[Leak, ...]:
    """``before``: what attacks got of the same windows from the reference; None without one."""
    asked = [one.exact for name, one in scores.items() if name != "copy"]
    any_exact = np.any(asked, axis=0) if asked else np.zeros(len(counts), dtype=bool)
    known = np.any([one.exact for one in before], axis=0) if before else np.zeros_like(any_exact)
    made = []
    for column, category in enumerate(categories):
        holds = counts[:, column] > 0
        by = {name: int(np.count_nonzero(one.exact & holds)) for name, one in scores.items()}
        windows, extracted = int(holds.sum()), int(np.count_nonzero(any_exact & holds))
        since = int(np.count_nonzero(any_exact & ~known & holds)) if before is not None else None
        made.append(Leak(category, windows, int(counts[:, column].sum()), extracted, by, since))
    return tuple(made)
