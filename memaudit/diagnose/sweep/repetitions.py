"""Extraction against repetitions of a text: by a column of the data, and by near-duplicates.

Knows verdicts of a finished run, with a number for each window. Asks no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.section import COLOURS, Section, heads
from memaudit.diagnose.sweep.measure import DEFAULT_COLUMN
from memaudit.diagnose.sweep.view import SHARE, View
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_CLUSTERS, Resamples
from memaudit.score.stats import Bools, Floats, Ints
from memaudit.system.plain_text import neutral, shorten

_GROUPS = 12
"""Most groups; more values than this are grouped by rank."""
_TREND = (
    "Trend: the probability that an extracted window has a higher number than one not extracted; "
    "50 % means no trend. No interval below "
    f"{LEAST_CLUSTERS} clusters of either kind."
)


class Group(NamedTuple):
    """Windows with similar numbers."""

    name: str
    middle: float
    """Median of the numbers."""
    mask: Bools
    """(N,)."""


def sweep_repetitions(
    view: View, column: str, repetitions: Floats | None, attacks: Sequence[str]
) -> Section:
    """Return the exact rate by a numeric column of the data, and by a window's cluster size.

    repetitions: (N,) numbers of the column, NaN for other cells; None without one.
    """
    sections = []
    if repetitions is not None:
        axis = _Axis("repetitions", neutral(shorten(column, 40)), repetitions)
        sections.append(_by_axis(view, axis, attacks))
    _, place, counts = np.unique(view.data.clusters, return_inverse=True, return_counts=True)
    sizes = counts[place].astype(np.float64)
    if sizes.max() > 1:
        axis = _Axis("near-duplicates", "windows in its cluster", sizes)
        sections.append(_by_axis(view, axis, attacks))
    notes = []
    if repetitions is None:
        notes.append(
            f"The data have no column {DEFAULT_COLUMN} and --by named no other, so extraction "
            "against repetitions in training is not known."
        )
    if sizes.max() > 1:
        notes.append(
            "Near-duplicates are counted in this file only: the training data may hold more."
        )
    return Section.joined([*sections, Section(notes=notes)])


class _Axis(NamedTuple):
    name: str
    label: str
    values: Floats


def groups_of(values: Floats) -> list[Group]:
    """Group windows (N,) by their number, ascending; many numbers give groups of equal size."""
    known = np.unique(values[np.isfinite(values)])
    edges = known
    if len(known) > _GROUPS:
        cuts = np.quantile(values[np.isfinite(values)], np.linspace(0, 1, _GROUPS + 1)[:-1])
        edges = np.unique(known[np.searchsorted(known, cuts)])
    place = np.searchsorted(edges, values, side="right") - 1
    place[~np.isfinite(values)] = -1
    groups = []
    for at in range(len(edges)):
        members = values[place == at]
        low, high = members.min(), members.max()
        name = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        groups.append(Group(name, float(np.median(members)), np.asarray(place == at)))
    return groups


def trend(exact: Bools, values: Floats, clusters: Ints, resamples: Resamples) -> Estimate:
    """Return the probability that an extracted window has a higher number than another.

    It is the AUC of the number as a score of extraction, ties counted half; 2 AUC - 1 is Somers' D
    (1962). Windows (N,) without a number are left out. No value if all or no windows are extracted,
    and no interval if either kind lies in fewer than `LEAST_CLUSTERS` clusters.
    """
    known = np.isfinite(values)
    return resamples.auc(values[known], exact[known], clusters[known])


def _by_axis(view: View, axis: _Axis, attacks: Sequence[str]) -> Section:
    data, groups = view.data, groups_of(axis.values)
    rates = {
        attack: [
            view.rate(data.take(group.mask), data.exact(attack)[group.mask]) for group in groups
        ]
        for attack in attacks
    }
    trends = {
        attack: trend(data.exact(attack), axis.values, data.clusters, view.resamples)
        for attack in attacks
    }
    rows: list[list[Cell]] = [
        [group.name, int(group.mask.sum()), *(rates[attack][at] for attack in attacks)]
        for at, group in enumerate(groups)
    ]
    at = [group.middle for group in groups]
    lines = [Line.of(attack, attack, at, rates[attack], marker="o") for attack in attacks]
    if view.controls is not None:
        of_controls = [view.rates(attack)["controls"] for attack in attacks]
        rows.append(["controls", len(view.controls), *of_controls])
        for rate in of_controls:
            level = [rate.value or 0.0] * len(at)
            lines.append(Line("controls", COLOURS["controls"], at, level, dash=":"))
    known = int(sum(group.mask.sum() for group in groups))
    rows.append(["trend", known, *(trends[attack] for attack in attacks)])
    name, label = axis.name, axis.label
    ascii_label = label.encode("ascii", "replace").decode("ascii")
    table = FigureTable(
        name=name,
        title=f"{name.capitalize()} ({label})",
        says=f"Share of windows extracted exactly, by {label}. {_TREND}",
        columns=[*heads("text", label), *heads("count", "windows"), *heads("share", *attacks)],
        rows=rows,
    )
    plot = Plot(
        name=name,
        title=f"Extraction against {name}",
        says=f"By {label}: the median of each group.",
        x=Axis(ascii_label, min(at) > 0, at, [f"{middle:g}" for middle in at]),
        y=SHARE,
        lines=lines,
    )
    return Section([_finding(axis, groups, rates["none"], trends["none"])], [], [table], [plot])


def _finding(
    axis: _Axis, groups: Sequence[Group], rates: Sequence[Estimate], steep: Estimate
) -> str:
    """Return a sentence on the trend of ``none``."""
    subject = f"{axis.name.capitalize()} ({axis.label})"
    if steep.value is None:
        rates_known = [rate.value for rate in rates if rate.value is not None]
        outcome = "all windows are" if any(rates_known) else "no window is"
        if not rates_known:
            outcome = "all or no windows are"
        return f"{subject}: {outcome} extracted without a prompt, so there is no trend."
    end_rates = [f"{rates[at]:share} where it is {groups[at].name}" for at in (0, -1)]
    ends = f"the plain prefix extracts {' and '.join(end_rates)}"
    if steep.low is None or steep.high is None:
        return (
            f"{subject}: too few to tell a trend: the extracted windows, or the other windows, lie "
            f"in fewer than {LEAST_CLUSTERS} clusters; {ends}."
        )
    if steep.above(0.5):
        verdict = "the more, the likelier a window is extracted"
    elif steep.below(0.5):
        verdict = "the more, the less likely a window is extracted"
    else:
        verdict = "no significant trend"
    return (
        f"{subject}: {verdict} (an extracted window has more than another with probability "
        f"{steep}): {ends}."
    )
