"""The roll-up by group: how many persons, contracts or repositories have a sample that comes out.

Knows results and the tables' columns. Gives counts only: no name of a group leaves ``samples.csv``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from memaudit.config.settings import attack_label
from memaudit.report.blocks import Head, Table
from memaudit.report.leaks import Hits, any_hit
from memaudit.report.model import GroupRollUp, Report
from memaudit.report.result import ScanResult
from memaudit.report.wording import neutral
from memaudit.score.samples import Grouping, group_windows
from memaudit.score.stats import Bools
from memaudit.sensitive.detectors import Category


def group_section(result: ScanResult) -> GroupRollUp | None:
    """Return the section ``groups`` of the report; None if the data has no groups."""
    windows, content = result.data.windows, result.sensitive
    names = [neutral(windows.group[row] or "") for row in result.data.first_rows]
    hits = {attack.attack: attack.data.exact for attack in result.attacks}
    holds: dict[Category, Bools] = {}
    if content is not None:
        holds = dict(zip(content.categories, content.data.windows.T > 0, strict=True))
    return roll_up(names, group_windows(result.data), hits, holds)


def roll_up(
    names: Sequence[str], samples: Grouping, hits: Hits, holds: Mapping[Category, Bools]
) -> GroupRollUp | None:
    """Count the groups of M samples, and those with a sample that attacks extract.

    names: group of each sample; empty for a sample of no group. hits: windows (N,) by attack.
    holds: category to the windows (N,) with an item of it. Returns None if no sample has a group.
    """
    if not any(names):
        return None
    numbers = np.unique(np.array(names, dtype=object), return_inverse=True)[1]
    of_window = numbers[samples.sample]
    is_grouped = np.array([bool(name) for name in names])[samples.sample] & samples.is_own

    def count(windows: Bools) -> int:
        return len(np.unique(of_window[windows & is_grouped]))

    extracted = any_hit(hits, samples)
    return GroupRollUp(
        groups=count(np.ones_like(is_grouped)),
        extracted=count(extracted),
        extracted_by={name: count(windows) for name, windows in hits.items()},
        sensitive={category: count(extracted & held) for category, held in holds.items()},
    )


def group_rows(report: Report) -> list[Table]:
    """Return the table of groups; empty if the data has none."""
    section = report.groups
    if section is None:
        return []
    rows = [[attack_label(name), str(number)] for name, number in section.extracted_by.items()]
    leaks = () if report.sensitive is None else report.sensitive.data
    titles = {leak.category: leak.title for leak in leaks}
    rows += [[titles[name], str(number)] for name, number in section.sensitive.items() if number]
    title = (
        f"Groups with at least one extracted sample: {section.extracted:,} of {section.groups:,}"
    )
    says = "By attack, then by the sensitive content of what any attack on the model extracts."
    return [Table("groups", title, says, [Head("extracted"), Head("groups", "count")], rows)]
