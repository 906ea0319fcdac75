"""Figures of a sweep: shares and means of windows with intervals, and the piece that a sweep adds.

Knows arrays, clusters, and how many windows each one stands for. Knows no model and loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from memaudit.diagnose.sure import Sure, outer
from memaudit.report.diagnosis import FigureTable, Measure, Plot
from memaudit.report.wording import percent, points, points_interval
from memaudit.score.stats import (
    Bools,
    Floats,
    Interval,
    Ints,
    agreeing,
    clopper_pearson,
    paired_clustered,
    paired_exact,
)

_SURPRISING = 0.05
"""A p-value below it."""


@dataclass(frozen=True)
class Piece:
    """What one sweep adds to the diagnosis."""

    findings: Sequence[str] = ()
    notes: Sequence[str] = ()
    tables: Sequence[FigureTable] = ()
    plots: Sequence[Plot] = ()


@dataclass(frozen=True, eq=False)
class Drawn:
    """Windows of one role that were looked at: n of N, more of the rarer kinds than their share."""

    rows: Ints
    """(n,) their places among the N windows, in order."""
    clusters: Ints
    """(n,)."""
    kinds: Ints
    """(n,) 0 to K-1: what they were drawn by."""
    sizes: Ints
    """(K,) windows of each kind among the N; one at least of each was drawn."""
    weights: Floats = field(init=False)
    """(n,) windows of the N that each stands for."""

    def __post_init__(self) -> None:
        counts = np.bincount(self.kinds, minlength=len(self.sizes))
        object.__setattr__(self, "weights", (self.sizes / counts)[self.kinds])

    @property
    def is_all(self) -> bool:
        """Whether every window was looked at."""
        return len(self.rows) == int(self.sizes.sum())

    def rate(self, hits: Bools, sure: Sure) -> Measure:
        """Share of the N windows, estimated from hits (n,) of those drawn.

        Interval: the outer ends of the cluster bootstrap of the weighted share, and of the exact
        bounds of the kinds, which hold together (Bonferroni), added up by their sizes.
        """
        if self.is_all:
            return sure.rate(hits, self.clusters)
        if not sure.disclosure.covers(self.clusters):
            return Measure(None, None, None)
        each = 1 - (1 - sure.confidence) / len(self.sizes)
        bounds = [
            clopper_pearson(
                int(hits[self.kinds == kind].sum()), int((self.kinds == kind).sum()), each
            )
            for kind in range(len(self.sizes))
        ]
        shares = self.sizes / self.sizes.sum()
        exact = Interval(*(float(shares @ end) for end in np.array(bounds).T))
        value = float(np.average(hits, weights=self.weights))
        if hits.all() or not hits.any():  # the bootstrap would be blind
            _, place = np.unique(self.clusters, return_inverse=True)
            sizes = np.bincount(place, weights=self.weights).astype(np.float64)
            drawn = agreeing(sizes, bool(hits.all()), sure.confidence)
        else:
            drawn = sure.bootstrap(hits, self.clusters, self.weights)
        return Measure.of(value, outer(exact, drawn))

    def change(self, hits: Bools, before: Bools, sure: Sure) -> Measure:
        """Share of the N windows less that of others before, from the same windows drawn (n,)."""
        values = (hits.astype(np.float64), before.astype(np.float64))
        return sure.change(*values, self.clusters, self.weights)

    def p_value(self, hits: Bools, before: Bools, sure: Sure) -> float | None:
        """Of that change: the larger of McNemar's and of a sign-flip test over clusters.

        None where not all were looked at: windows drawn by what they did before differ by that.
        """
        if not self.is_all:
            return None
        exact = paired_exact(hits, before).p_value
        flipped = paired_clustered(hits, before, self.clusters, sure.resamples, sure.rng())
        return max(exact, flipped)

    def mean(self, values: Floats, sure: Sure) -> Measure:
        """Mean over the N windows, estimated from values (n,) of those drawn."""
        return sure.weighted_mean(values, self.clusters, self.weights)


def _ends(measure: Measure) -> Interval:
    return Interval(*(math.nan if end is None else end for end in (measure.low, measure.high)))


def thinned(values: Sequence[int], most: int) -> list[int]:
    """At most so many of the values, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    places = np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))
    return [values[place] for place in places]


def number_of(measure: Measure) -> float:
    """The figure; NaN where there is none."""
    return math.nan if measure.value is None else measure.value


_Curve = tuple[list[float], list[float], list[float]]


def with_few_bars(whole: _Curve, barred: Sequence[bool]) -> _Curve:
    """A curve with intervals at some of its points only, so that it can be seen."""
    y, *ends = whole
    low, high = (
        [end if bar else math.nan for end, bar in zip(side, barred, strict=True)] for side in ends
    )
    return y, low, high


def curve(measures: Sequence[Measure]) -> _Curve:
    """Values, lower and upper ends, for a line; NaN where there is none."""
    return (
        [number_of(one) for one in measures],
        [_ends(one).low for one in measures],
        [_ends(one).high for one in measures],
    )


def rate_words(measure: Measure, *, interval: bool = True) -> str:
    """``5.1 % (4.6 to 5.7)``; an interval that starts at 0 is written as its upper bound."""
    if measure.value is None:
        return "n/a"
    if not interval:
        return percent(measure.value)
    ends = _ends(measure)
    if math.isnan(ends.low) or math.isnan(ends.high):
        return percent(measure.value)
    if ends.low <= 0 and ends.high < 1:
        return f"{percent(measure.value)} (at most {percent(ends.high)})"
    low, high = (percent(end).removesuffix(" %") for end in ends)
    return f"{percent(measure.value)} ({low} to {high})"


def points_words(measure: Measure) -> str:
    """``-1.2 points (-1.9 to -0.6)``."""
    if measure.value is None:
        return "n/a"
    ends = _ends(measure)
    said = f"{points(measure.value)} points"
    return said if math.isnan(ends.low) else f"{said} ({points_interval(ends)})"


def apart_from_zero(measure: Measure, p: float | None = None) -> bool:
    """Whether a difference's interval leaves 0 out, and its p-value, where there is one, agrees.

    Few windows that all differ the same way leave 0 out of a bootstrap too easily.
    """
    if p is not None and p >= _SURPRISING:
        return False
    return not (measure.low is None or measure.high is None or measure.low <= 0 <= measure.high)


def numeric(cells: Sequence[object]) -> Floats:
    """Cells as numbers (N,); NaN for what is none."""
    return np.array([_number(cell) for cell in cells], dtype=np.float64)


def _number(cell: object) -> float:
    try:
        value = float(str(cell))
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def as_bools(values: npt.NDArray[np.generic]) -> Bools:
    """A mask of any comparison, typed."""
    return np.asarray(values, dtype=bool)
