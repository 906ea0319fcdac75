"""Shares and means over sampled windows, with intervals.

Knows arrays, clusters and the weight of each window. Knows no model and loads no torch.
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

_NOT_SIGNIFICANT = 0.05
"""p-value from which a difference counts as none."""


@dataclass(frozen=True)
class Piece:
    """Findings, notes, tables and plots of one sweep."""

    findings: Sequence[str] = ()
    notes: Sequence[str] = ()
    tables: Sequence[FigureTable] = ()
    plots: Sequence[Plot] = ()


@dataclass(frozen=True, eq=False)
class Sampled:
    """Sample of n of N windows of one role; the rarer kinds are oversampled."""

    rows: Ints
    """(n,) positions among the N windows, ascending."""
    clusters: Ints
    """(n,)."""
    kinds: Ints
    """(n,) kind of each window, 0 to K-1."""
    sizes: Ints
    """(K,) windows of each kind among the N; the sample has one of each at least."""
    weights: Floats = field(init=False)
    """(n,) number of the N windows that each sampled window represents."""

    def __post_init__(self) -> None:
        counts = np.bincount(self.kinds, minlength=len(self.sizes))
        object.__setattr__(self, "weights", (self.sizes / counts)[self.kinds])

    @property
    def is_all(self) -> bool:
        """True if the sample holds every window."""
        return len(self.rows) == int(self.sizes.sum())

    def rate(self, hits: Bools, resamples: Resamples) -> Estimate:
        """Estimate the share of the N windows from the sample's hits (n,).

        The interval takes the outer ends of two: the cluster bootstrap of the weighted share, and
        the exact bounds of the kinds (Bonferroni), weighted by their sizes.
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
        """Estimate the change of share among the N windows from paired hits (n,)."""
        values = (hits.astype(np.float64), before.astype(np.float64))
        return resamples.change(*values, self.clusters, self.weights)

    def p_value(self, hits: Bools, before: Bools, resamples: Resamples) -> float | None:
        """Return the change's p-value: the larger of McNemar's and a sign-flip test's.

        None for a sample: it was stratified by the hits before, which biases both tests.
        """
        if not self.is_all:
            return None
        exact = paired_exact(hits, before).p_value
        flipped = paired_clustered(hits, before, self.clusters, resamples.number, resamples.rng())
        return max(exact, flipped)

    def mean(self, values: Floats, resamples: Resamples) -> Estimate:
        """Estimate the mean over the N windows from the sample's values (n,)."""
        return resamples.mean(values, self.clusters, self.weights)


def thinned(values: Sequence[int], limit: int) -> list[int]:
    """Return at most ``limit`` of the values, including the first and the last."""
    if len(values) <= limit:
        return list(values)
    places = np.unique(np.linspace(0, len(values) - 1, limit).round().astype(int))
    return [values[place] for place in places]


def with_few_bars(line: Line, barred: Sequence[bool]) -> Line:
    """Return the curve with intervals at the barred points only, so that it stays legible."""
    low, high = (
        [end if bar else math.nan for end, bar in zip(side or line.y, barred, strict=True)]
        for side in (line.low, line.high)
    )
    return replace(line, low=low, high=high)


def differs_from_zero(change: Estimate, p: float | None = None) -> bool:
    """Return True if the change's interval excludes 0 and its p-value, if any, agrees.

    A bootstrap excludes 0 too easily when few windows differ, all in the same direction.
    """
    if p is not None and p >= _NOT_SIGNIFICANT:
        return False
    return change.above(0) or change.below(0)


def numeric(cells: Sequence[object]) -> Floats:
    """Return the cells as numbers (N,); NaN for cells that hold no number."""
    return np.array([_number(cell) for cell in cells], dtype=np.float64)


def _number(cell: object) -> float:
    try:
        value = float(str(cell))
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def as_bools(values: npt.NDArray[np.generic]) -> Bools:
    """Return a comparison's result as a mask."""
    return np.asarray(values, dtype=bool)
