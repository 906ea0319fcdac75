"""Sensitive content: windows with items of each category, and the attacks that extract them.

Knows results. Knows nothing of formats, and never sees the items themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from memaudit.config.settings import AttackName
from memaudit.report.model import Leak, NotSearched, Searched, Sensitive
from memaudit.report.result import ScanResult
from memaudit.score.scores import WindowScores
from memaudit.sensitive.categories import TITLES as TITLES
from memaudit.sensitive.counting import Counts
from memaudit.sensitive.detectors import Category

SCOPE = (
    "Only the text of the suffixes was searched; items cut off at either end of a suffix "
    "may be missed. A window counts as extracted if every token of its suffix is."
)


def leaks(result: ScanResult) -> tuple[Leak, ...]:
    """Return every category that was searched in the data; empty if none was."""
    if result.sensitive is None:
        return ()
    scores = {attack.attack: attack.data for attack in result.attacks}
    before = [attack.data for attack in result.reference.attacks] if result.reference else None
    return count_leaks(result.sensitive.categories, result.sensitive.data.windows, scores, before)


def control_leaks(result: ScanResult) -> tuple[Leak, ...] | None:
    """Return every category that was searched in the controls; None without controls."""
    if result.sensitive is None or result.sensitive.controls is None:
        return None
    both = {attack.attack: attack.controls for attack in result.attacks}
    scores = {name: windows for name, windows in both.items() if windows is not None}
    before = None
    if result.reference:
        on_reference = (attack.controls for attack in result.reference.attacks)
        before = [windows for windows in on_reference if windows is not None]
    found = result.sensitive.controls.windows
    return count_leaks(result.sensitive.categories, found, scores, before)


def sensitive_section(result: ScanResult) -> Sensitive | None:
    """Return the section ``sensitive`` of the report; None if nothing was searched."""
    content = result.sensitive
    if content is None:
        return None
    methods, missing = content.methods.items(), content.missing.items()
    return Sensitive(
        scope=SCOPE,
        looked_for=tuple(Searched(category=name, method=method) for name, method in methods),
        not_looked_for=tuple(NotSearched(category=name, reason=why) for name, why in missing),
        data=leaks(result),
        controls=control_leaks(result),
    )


def named_counts(categories: tuple[Category, ...], counts: Counts) -> str:
    """Return one window's counts (C,) as ``email:2 phone:1``; empty where it holds nothing."""
    both = zip(categories, counts.tolist(), strict=True)
    return " ".join(f"{category}:{items}" for category, items in both if items)


def leak_rows(section: Sensitive | None) -> tuple[list[str], list[list[str]], str]:
    """Return heads of attacks, rows, and the categories not searched, from the report's section.

    There is a row for each category in the data: its title, windows, extracted windows, windows
    extracted by each attack and, with a reference, windows leaked by the fine-tuning. No rows if
    nothing was found or searched.
    """
    leaks = [leak for leak in section.data if leak.windows] if section else []
    if section is None or not leaks:
        return [], [], ""
    attacks = list(leaks[0].extracted_by)
    since = all(leak.leaked is not None for leak in leaks)
    rows = [
        [TITLES[leak.category], str(leak.windows), str(leak.extracted)]
        + [str(leak.extracted_by.get(attack, 0)) for attack in attacks]
        + ([str(leak.leaked)] if since else [])
        for leak in leaks
    ]
    heads = [*attacks, *(["by fine-tuning"] if since else [])]
    return (
        heads,
        rows,
        ", ".join(TITLES[missing.category] for missing in section.not_looked_for),
    )


def count_leaks(
    categories: tuple[Category, ...],
    counts: Counts,
    scores: Mapping[AttackName, WindowScores],
    before: Sequence[WindowScores] | None,
) -> tuple[Leak, ...]:
    """Count windows with items of each category, and those that attacks extract.

    counts: (N,C) items. before: scores of the same windows on the reference; None without one.
    """
    asked = [windows.exact for name, windows in scores.items() if name != "copy"]
    any_exact = np.any(asked, axis=0) if asked else np.zeros(len(counts), dtype=bool)
    known = np.zeros_like(any_exact)
    if before:
        known = np.any([windows.exact for windows in before], axis=0)
    leaks = []
    for column, category in enumerate(categories):
        holds = counts[:, column] > 0
        by = {name: int(np.count_nonzero(hit.exact & holds)) for name, hit in scores.items()}
        windows, extracted = int(holds.sum()), int(np.count_nonzero(any_exact & holds))
        since = int(np.count_nonzero(any_exact & ~known & holds)) if before is not None else None
        leaks.append(
            Leak(
                category=category,
                windows=windows,
                found=int(counts[:, column].sum()),
                extracted=extracted,
                extracted_by=by,
                leaked=since,
            )
        )
    return tuple(leaks)
