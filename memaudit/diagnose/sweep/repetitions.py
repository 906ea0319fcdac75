"""Extraction against how often a text was repeated: by a column of the data, and by near-duplicates
in the file itself.

Knows verdicts of a finished run and numbers beside them. No model is asked, and no torch loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from memaudit.diagnose.sweep.figures import Piece, numeric
from memaudit.errors import UsageError
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.report.reading import passed_through
from memaudit.report.wording import (
    neutral,
    shorten,
)
from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_CLUSTERS, Resamples
from memaudit.score.stats import Bools, Floats, Ints

if TYPE_CHECKING:  # it loads torch
    from memaudit.diagnose.subject import Part

USUAL = "dup"
"""The column that is looked for where none is named."""
_GROUPS = 12
"""Values that get a row each; of more, they are put together by rank."""
_TREND = (
    "Trend: the probability that an extracted window has the higher number of two, one extracted "
    "and one not; 50 % says no trend. Without an interval below "
    f"{LEAST_CLUSTERS} clusters of a kind."
)


class Group(NamedTuple):
    """Windows with like numbers."""

    name: str
    middle: float
    """Median of the numbers."""
    mask: Bools
    """(N,)."""


def sweep_repetitions(
    data: Part,
    controls: Part | None,
    by: str | None,
    attacks: tuple[str, ...],
    resamples: Resamples,
) -> Piece:
    """Exact rate by a numeric column of the data, and by the size of a window's cluster.

    Raises UsageError where ``by`` names no column of the data, or one without two numbers.
    """
    pieces = []
    values = _column(data, by)
    if values is not None:
        name, numbers = by or USUAL, values
        pieces.append(_by(data, controls, _Axis("repetitions", name, numbers), attacks, resamples))
    _, place, counts = np.unique(data.clusters, return_inverse=True, return_counts=True)
    sizes = counts[place].astype(np.float64)
    if sizes.max() > 1:
        axis = _Axis("near-duplicates", "windows in its cluster", sizes)
        pieces.append(_by(data, controls, axis, attacks, resamples))
    return Piece(
        [finding for piece in pieces for finding in piece.findings],
        _notes(values is not None, bool(sizes.max() > 1)),
        [table for piece in pieces for table in piece.tables],
        [plot for piece in pieces for plot in piece.plots],
    )


class _Axis(NamedTuple):
    name: str
    label: str
    values: Floats


def _column(data: Part, by: str | None) -> Floats | None:
    """The numbers (N,), NaN for cells that hold none; None where there is no usual column."""
    name = by or USUAL
    there = passed_through(data.rows)
    values = numeric(data.rows[name].tolist()) if name in there else np.full(len(data), np.nan)
    if len(np.unique(values[np.isfinite(values)])) >= 2:
        return values
    if by is None:
        return None
    wrong = "has no two different numbers" if name in there else "is no column of the data"
    shown = neutral(shorten(name, 40))
    raise UsageError(f"--by {shown}: {wrong}; name a numeric one that the data bring along")


def groups_of(values: Floats) -> list[Group]:
    """Windows (N,) by their number, in its order; of many numbers, about equally many windows."""
    known = np.unique(values[np.isfinite(values)])
    edges = known
    if len(known) > _GROUPS:
        cuts = np.quantile(values[np.isfinite(values)], np.linspace(0, 1, _GROUPS + 1)[:-1])
        edges = np.unique(known[np.searchsorted(known, cuts)])
    place = np.searchsorted(edges, values, side="right") - 1
    place[~np.isfinite(values)] = -1
    groups = []
    for at in range(len(edges)):
        mine = values[place == at]
        low, high = mine.min(), mine.max()
        name = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        groups.append(Group(name, float(np.median(mine)), np.asarray(place == at)))
    return groups


def trend(exact: Bools, values: Floats, clusters: Ints, resamples: Resamples) -> Estimate:
    """Probability that an extracted window has more than one that is not, ties half.

    The AUC of the number as a score of extraction; twice it less 1 is Somers' D (1962). Windows
    (N,) without a number are left out. No figure where all or none are extracted, and no interval
    where either kind lies in fewer than `LEAST_CLUSTERS`: it would say nothing.
    """
    known = np.isfinite(values)
    return resamples.auc(values[known], exact[known], clusters[known])


def _by(
    data: Part, controls: Part | None, axis: _Axis, attacks: tuple[str, ...], resamples: Resamples
) -> Piece:
    groups = groups_of(axis.values)
    rates = {
        attack: [_rate(data, attack, group.mask, resamples) for group in groups]
        for attack in attacks
    }
    trends = {
        attack: trend(data.exact(attack), axis.values, data.clusters, resamples)
        for attack in attacks
    }
    shown = neutral(shorten(axis.label, 40))
    table = FigureTable(
        name=axis.name,
        title=f"{axis.name.capitalize()} ({shown})",
        says=f"Share of windows extracted exactly, by {shown}. {_TREND}",
        columns=[Column(shown, "text"), Column("windows", "count")]
        + [Column(attack, "share") for attack in attacks],
        rows=_rows(groups, rates, trends, controls, attacks, resamples),
    )
    plot = Plot(
        name=axis.name,
        title=f"Extraction against {axis.name}",
        says=f"By {shown}: the median of each group.",
        x=_x_axis(shown, groups),
        y=Axis("share of windows", low=0.0),
        lines=_lines(groups, rates, controls, resamples),
    )
    return Piece(_findings(axis.name, shown, groups, rates, trends), (), [table], [plot])


def _x_axis(shown: str, groups: Sequence[Group]) -> Axis:
    at = [group.middle for group in groups]
    return Axis(_ascii(shown), min(at) > 0, at, [f"{middle:g}" for middle in at])


def _rate(part: Part, attack: str, mask: Bools, resamples: Resamples) -> Estimate:
    return resamples.rate(part.exact(attack)[mask], part.clusters[mask])


def _rows(
    groups: Sequence[Group],
    rates: dict[str, list[Estimate]],
    trends: dict[str, Estimate],
    controls: Part | None,
    attacks: tuple[str, ...],
    resamples: Resamples,
) -> list[list[Cell]]:
    rows: list[list[Cell]] = [
        [group.name, int(group.mask.sum()), *(rates[attack][at] for attack in attacks)]
        for at, group in enumerate(groups)
    ]
    if controls is not None:
        every = np.ones(len(controls), dtype=bool)
        on = [_rate(controls, attack, every, resamples) for attack in attacks]
        rows.append(["controls", len(controls), *on])
    known = int(sum(group.mask.sum() for group in groups))
    rows.append(["trend", known, *(trends[attack] for attack in attacks)])
    return rows


def _lines(
    groups: Sequence[Group],
    rates: dict[str, list[Estimate]],
    controls: Part | None,
    resamples: Resamples,
) -> list[Line]:
    at = [group.middle for group in groups]
    lines = []
    for attack, estimates in rates.items():
        lines.append(Line.of(attack, attack, at, estimates, marker="o"))
    if controls is not None:
        every = np.ones(len(controls), dtype=bool)
        for attack in rates:
            level = _rate(controls, attack, every, resamples).value or 0.0
            lines.append(Line("controls", "series-3", at, [level] * len(at), dash=":"))
    return lines


def _findings(
    name: str,
    shown: str,
    groups: Sequence[Group],
    rates: dict[str, list[Estimate]],
    trends: dict[str, Estimate],
) -> list[str]:
    """What ``none`` says; nothing where it extracts no window at all, or every one."""
    steep = trends["none"]
    if steep.value is None:
        known = [one.value for one in rates["none"] if one.value is not None]
        some = "all windows come" if any(known) else "no window comes"
        if not known:
            some = "all windows or none come"
        return [f"{name.capitalize()} ({shown}): {some} out without a prompt, so no trend is seen."]
    said = [f"{rates['none'][at]:share} where it is {groups[at].name}" for at in (0, -1)]
    ends = f"the plain prefix extracts {' and '.join(said)}"
    if steep.low is None or steep.high is None:
        return [
            f"{name.capitalize()} ({shown}): too few to tell a trend, for windows that come out, "
            f"or the others, lie in fewer than {LEAST_CLUSTERS} clusters: {ends}."
        ]
    if steep.above(0.5):
        verdict = "the more, the likelier a window comes out"
    elif steep.below(0.5):
        verdict = "the more, the less likely a window comes out"
    else:
        verdict = "no trend can be told"
    return [
        f"{name.capitalize()} ({shown}): {verdict} (an extracted window has more than another "
        f"with probability {steep}): {ends}."
    ]


def _notes(column: bool, near: bool) -> list[str]:
    notes = []
    if not column:
        notes.append(
            f"The data bring no column {USUAL} along and none was named (--by), so extraction "
            "against repetitions in training is not known."
        )
    if near:
        notes.append(
            "Near-duplicates are counted in this file alone: the model may have seen more of them."
        )
    return notes


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")
