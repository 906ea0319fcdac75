"""Sensitive content: samples with items of each category, and the attacks that extract them.

Knows results. Knows nothing of formats, and never sees the items themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from memaudit.config.settings import AttackName, attack_label
from memaudit.gate.thresholds import SensitiveCount
from memaudit.report.model import Leak, NotSearched, Searched, Sensitive
from memaudit.report.result import ScanResult
from memaudit.score.samples import Grouping, group_windows
from memaudit.score.stats import Bools, Ints
from memaudit.sensitive.categories import TITLES as TITLES
from memaudit.sensitive.counting import Counts
from memaudit.sensitive.detectors import Category

SCOPE = (
    "Only items that are mostly in a suffix count; those cut off at its end may be missed. An item "
    "that the window's prefix holds too does not count, as the prompt itself gave it. A sample "
    "counts as extracted if a window that holds an item, and is not template alone, comes out "
    "whole."
)

Hits = Mapping[AttackName, Bools]
"""Attack to the windows (N,) that it extracts, template alone or not."""


def leaks(result: ScanResult) -> tuple[Leak, ...]:
    """Return every category that was searched in the data; empty if none was."""
    content = result.sensitive
    if content is None:
        return ()
    hits = {attack.attack: attack.data.exact for attack in result.attacks}
    before = None
    if result.reference:
        before = [attack.data.exact for attack in result.reference.attacks]
    groups = group_windows(result.data)
    return count_leaks(content.categories, content.data.windows, groups, hits, before)


def counts_of(leaks: Iterable[Leak]) -> tuple[SensitiveCount, ...]:
    """Return what the gates judge of each category."""
    return tuple(
        SensitiveCount(leak.category, leak.title, leak.samples, leak.extracted) for leak in leaks
    )


def control_leaks(result: ScanResult) -> tuple[Leak, ...] | None:
    """Return every category that was searched in the controls; None without controls."""
    content = result.sensitive
    if content is None or content.controls is None or result.controls is None:
        return None
    scores = {attack.attack: attack.controls for attack in result.attacks}
    hits = {name: windows.exact for name, windows in scores.items() if windows is not None}
    before = None
    if result.reference:
        on_reference = (attack.controls for attack in result.reference.attacks)
        before = [windows.exact for windows in on_reference if windows is not None]
    groups = group_windows(result.controls)
    return count_leaks(content.categories, content.controls.windows, groups, hits, before)


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

    There is a row for each category in the data: its title, samples, extracted samples, samples
    extracted by each attack and, with a reference, samples leaked by the fine-tuning. No rows if
    nothing was found or searched.
    """
    leaks = [leak for leak in section.data if leak.samples] if section else []
    if section is None or not leaks:
        return [], [], ""
    attacks = list(leaks[0].extracted_by)
    since = all(leak.leaked is not None for leak in leaks)
    rows = [
        [leak.title, str(leak.samples), str(leak.extracted)]
        + [str(leak.extracted_by.get(attack, 0)) for attack in attacks]
        + ([str(leak.leaked)] if since else [])
        for leak in leaks
    ]
    heads = [*map(attack_label, attacks), *(["by fine-tuning"] if since else [])]
    return (
        heads,
        rows,
        ", ".join(TITLES[missing.category] for missing in section.not_looked_for),
    )


def count_leaks(
    categories: tuple[Category, ...],
    counts: Counts,
    groups: Grouping,
    hits: Hits,
    before: Sequence[Bools] | None,
) -> tuple[Leak, ...]:
    """Count the samples that hold items of each category, and those of which attacks extract some.

    The first finding, the table and the gates count with this function, and so does every reader
    of a stored run. Windows of template alone are in no count of extracted samples.

    counts: (N,C) items. hits: without ``copy`` for what is extracted at all. before: the windows
    (N,) that each attack extracts from the reference; None without one.
    """
    hit = any_hit(hits, groups)
    known = None if before is None else _any(before, groups)
    leaks = []
    for column, category in enumerate(categories):
        holds = counts[:, column] > 0
        own = holds & groups.is_own
        extracted = _samples(hit & own, groups)
        leaks.append(
            Leak(
                category=category,
                title=TITLES[category],
                samples=len(_samples(holds, groups)),
                windows=int(holds.sum()),
                found=int(counts[:, column].sum()),
                extracted=len(extracted),
                extracted_by={
                    name: len(_samples(mask & own, groups)) for name, mask in hits.items()
                },
                leaked=None
                if known is None
                else len(np.setdiff1d(extracted, _samples(known & own, groups))),
            )
        )
    return tuple(leaks)


def any_hit(hits: Hits, groups: Grouping) -> Bools:
    """Return the windows (N,) that at least one attack on the model extracts."""
    return _any([windows for name, windows in hits.items() if name != "copy"], groups)


def _any(masks: Sequence[Bools], groups: Grouping) -> Bools:
    """Return the windows (N,) of any mask; none where there is no mask."""
    return np.asarray(np.any([np.zeros_like(groups.is_own), *masks], axis=0))


def _samples(windows: Bools, groups: Grouping) -> Ints:
    """Return the numbers of the samples with a window in the mask (N,)."""
    return np.unique(groups.sample[windows])
