"""Figures of a sweep: shares and means of windows with intervals, and the piece that a sweep adds.

Knows arrays, clusters, and how many windows each one stands for. Knows no model and loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from memaudit.report.curves import Line
from memaudit.report.diagnosis import FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples, shared
from memaudit.score.stats import (
    Bools,
    Floats,
    Interval,
    Ints,
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

    def rate(self, hits: Bools, resamples: Resamples) -> Estimate:
        """Share of the N windows, estimated from hits (n,) of those drawn.

        Interval: the outer ends of the cluster bootstrap of the weighted share, and of the exact
        bounds of the kinds, which hold together (Bonferroni), added up by their sizes.
        """
        if self.is_all:
            return resamples.rate(hits, self.clusters)
        if not resamples.admits(self.clusters):
            return Estimate(None)
        each = shared(resamples.confidence, len(self.sizes))
        bounds = [
            clopper_pearson(
                int(hits[self.kinds == kind].sum()), int((self.kinds == kind).sum()), each
            )
            for kind in range(len(self.sizes))
        ]
        shares = self.sizes / self.sizes.sum()
        exact = Interval(*(float(shares @ end) for end in np.array(bounds).T))
        value = float(np.average(hits, weights=self.weights))
        clustered = resamples.clustered(hits, self.clusters, self.weights)
        return Estimate.of(value, exact).wider(clustered)

    def change(self, hits: Bools, before: Bools, resamples: Resamples) -> Estimate:
        """Share of the N windows less that of others before, from the same windows drawn (n,)."""
        values = (hits.astype(np.float64), before.astype(np.float64))
        return resamples.change(*values, self.clusters, self.weights)

    def p_value(self, hits: Bools, before: Bools, resamples: Resamples) -> float | None:
        """Of that change: the larger of McNemar's and of a sign-flip test over clusters.

        None where not all were looked at: windows drawn by what they did before differ by that.
        """
        if not self.is_all:
            return None
        exact = paired_exact(hits, before).p_value
        flipped = paired_clustered(hits, before, self.clusters, resamples.number, resamples.rng())
        return max(exact, flipped)

    def mean(self, values: Floats, resamples: Resamples) -> Estimate:
        """Mean over the N windows, estimated from values (n,) of those drawn."""
        return resamples.mean(values, self.clusters, self.weights)


def thinned(values: Sequence[int], most: int) -> list[int]:
    """At most so many of the values, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    places = np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))
    return [values[place] for place in places]


def with_few_bars(line: Line, barred: Sequence[bool]) -> Line:
    """Return a curve with intervals at some of its points only, so that it can be seen."""
    low, high = (
        [end if bar else math.nan for end, bar in zip(side or line.y, barred, strict=True)]
        for side in (line.low, line.high)
    )
    return replace(line, low=low, high=high)


def apart_from_zero(change: Estimate, p: float | None = None) -> bool:
    """Whether a difference's interval leaves 0 out, and its p-value, where there is one, agrees.

    Few windows that all differ the same way leave 0 out of a bootstrap too easily.
    """
    if p is not None and p >= _SURPRISING:
        return False
    return change.above(0) or change.below(0)


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
