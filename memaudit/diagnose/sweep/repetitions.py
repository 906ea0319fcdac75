"""Extraction against repetitions of a text: by a column of the data, and by near-duplicates.

Knows verdicts of a finished run, with a number for each window. Asks no model and loads no
torch.
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
from memaudit.report.wording import neutral, shorten
from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_CLUSTERS, Resamples
from memaudit.score.stats import Bools, Floats, Ints

if TYPE_CHECKING:  # it loads torch
    from memaudit.diagnose.subject import Part

DEFAULT_COLUMN = "dup"
"""Default column of repetitions."""
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
    data: Part,
    controls: Part | None,
    by: str | None,
    attacks: tuple[str, ...],
    resamples: Resamples,
) -> Piece:
    """Return the exact rate by a numeric column of the data, and by a window's cluster size.

    Raises UsageError if ``by`` names no column of the data, or one without two numbers.
    """
    pieces = []
    values = _column(data, by)
    if values is not None:
        name, numbers = by or DEFAULT_COLUMN, values
        pieces.append(
            _by_axis(data, controls, _Axis("repetitions", name, numbers), attacks, resamples)
        )
    _, place, counts = np.unique(data.clusters, return_inverse=True, return_counts=True)
    sizes = counts[place].astype(np.float64)
    if sizes.max() > 1:
        axis = _Axis("near-duplicates", "windows in its cluster", sizes)
        pieces.append(_by_axis(data, controls, axis, attacks, resamples))
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
    """Return the numbers (N,), NaN for other cells; None without a default column."""
    name = by or DEFAULT_COLUMN
    columns = passed_through(data.rows)
    values = numeric(data.rows[name].tolist()) if name in columns else np.full(len(data), np.nan)
    if len(np.unique(values[np.isfinite(values)])) >= 2:
        return values
    if by is None:
        return None
    wrong = "has no two different numbers" if name in columns else "is not a column of the data"
    label = neutral(shorten(name, 40))
    raise UsageError(f"--by {label}: {wrong}; name a numeric column of the data")


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


def _by_axis(
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
    label = neutral(shorten(axis.label, 40))
    table = FigureTable(
        name=axis.name,
        title=f"{axis.name.capitalize()} ({label})",
        says=f"Share of windows extracted exactly, by {label}. {_TREND}",
        columns=[Column(label, "text"), Column("windows", "count")]
        + [Column(attack, "share") for attack in attacks],
        rows=_rows(groups, rates, trends, controls, attacks, resamples),
    )
    plot = Plot(
        name=axis.name,
        title=f"Extraction against {axis.name}",
        says=f"By {label}: the median of each group.",
        x=_x_axis(label, groups),
        y=Axis("share of windows", low=0.0),
        lines=_lines(groups, rates, controls, resamples),
    )
    return Piece(_findings(axis.name, label, groups, rates, trends), (), [table], [plot])


def _x_axis(label: str, groups: Sequence[Group]) -> Axis:
    at = [group.middle for group in groups]
    return Axis(_ascii(label), min(at) > 0, at, [f"{middle:g}" for middle in at])


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
        rates_of_controls = [_rate(controls, attack, every, resamples) for attack in attacks]
        rows.append(["controls", len(controls), *rates_of_controls])
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
    label: str,
    groups: Sequence[Group],
    rates: dict[str, list[Estimate]],
    trends: dict[str, Estimate],
) -> list[str]:
    """Return a sentence on the trend of ``none``."""
    steep = trends["none"]
    if steep.value is None:
        rates_known = [rate.value for rate in rates["none"] if rate.value is not None]
        outcome = "all windows are" if any(rates_known) else "no window is"
        if not rates_known:
            outcome = "all or no windows are"
        return [
            f"{name.capitalize()} ({label}): {outcome} extracted without a prompt, so there "
            "is no trend."
        ]
    end_rates = [f"{rates['none'][at]:share} where it is {groups[at].name}" for at in (0, -1)]
    ends = f"the plain prefix extracts {' and '.join(end_rates)}"
    if steep.low is None or steep.high is None:
        return [
            f"{name.capitalize()} ({label}): too few to tell a trend: the extracted windows, or "
            f"the other windows, lie in fewer than {LEAST_CLUSTERS} clusters; {ends}."
        ]
    if steep.above(0.5):
        verdict = "the more, the likelier a window is extracted"
    elif steep.below(0.5):
        verdict = "the more, the less likely a window is extracted"
    else:
        verdict = "no significant trend"
    return [
        f"{name.capitalize()} ({label}): {verdict} (an extracted window has more than another "
        f"with probability {steep}): {ends}."
    ]


def _notes(column: bool, near: bool) -> list[str]:
    notes = []
    if not column:
        notes.append(
            f"The data have no column {DEFAULT_COLUMN} and --by named no other, so extraction "
            "against repetitions in training is not known."
        )
    if near:
        notes.append(
            "Near-duplicates are counted in this file only: the training data may hold more."
        )
    return notes


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")
