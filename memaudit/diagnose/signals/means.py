"""Means over windows that come in clusters, many figures at once, and differences of two means.

Knows figures and cluster numbers as arrays. Knows nothing of what they are. The same bootstrap as
`score.stats.cluster_bootstrap`, with one draw of clusters for all columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from memaudit.report.diagnosis import Measure
from memaudit.score.stats import Bools, Floats, Interval, Ints

_CELLS = 1 << 22
"""Counts of clusters held at once: 32 MiB."""


@dataclass(frozen=True, eq=False)
class Resampling:
    """How intervals are made."""

    confidence: float
    resamples: int
    rng: np.random.Generator

    @property
    def options(self) -> dict[str, Any]:
        """As `score.detection` and `score.stats` take them."""
        return {"confidence": self.confidence, "resamples": self.resamples, "rng": self.rng}

    def ends(self, found: Floats) -> tuple[Floats, Floats]:
        """Percentiles of what the resamples (R,...) gave, those that are NaN left out: each (...).

        NaN where fewer than half of them gave a figure.
        """
        tail = (1 - self.confidence) / 2
        known = np.mean(~np.isnan(found), axis=0) >= 0.5
        filled = np.where(known, found, 0.0)
        low, high = np.nanquantile(filled, [tail, 1 - tail], axis=0)
        return np.where(known, low, np.nan), np.where(known, high, np.nan)

    def resample(self, clusters: int, figures: Callable[[Floats], Floats]) -> Floats:
        """What ``figures`` gives for each resample of so many clusters: (R,...).

        It is asked with how often each cluster is drawn, as many as there are in all: some
        resamples at a time, (rows,clusters) to (rows,...).
        """
        rows = max(1, _CELLS // clusters)
        found = []
        for start in range(0, self.resamples, rows):
            count = min(rows, self.resamples - start)
            drawn = self.rng.integers(clusters, size=(count, clusters))
            places = drawn + clusters * np.arange(count)[:, None]
            times = np.bincount(places.ravel(), minlength=count * clusters)
            found.append(figures(times.reshape(count, clusters).astype(np.float64)))
        return np.concatenate(found)


class Means(NamedTuple):
    """Means of F figures with their intervals, each (F,)."""

    value: Floats
    """NaN where no window has the figure."""
    low: Floats
    """NaN, as ``high``, where fewer than two clusters have it."""
    high: Floats

    def measure(self, column: int = 0) -> Measure:
        """One of them."""
        ends = Interval(float(self.low[column]), float(self.high[column]))
        return Measure.of(float(self.value[column]), ends)


def mean_intervals(values: Floats, clusters: Ints, resampling: Resampling) -> Means:
    """Means over windows (N,F) of ``clusters`` (N,); a figure that is NaN is left out."""
    if not len(values):
        nothing = np.full(values.shape[1], np.nan)
        return Means(nothing, nothing, nothing)
    sums, sizes = _by_cluster(values, clusters)
    mean = _ratio(sums.sum(axis=0), sizes.sum(axis=0))
    if len(sums) < 2:
        return Means(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    found = resampling.resample(len(sums), lambda times: _ratio(times @ sums, times @ sizes))
    low, high = resampling.ends(found)
    enough = (sizes > 0).sum(axis=0) >= 2
    return Means(mean, np.where(enough, low, np.nan), np.where(enough, high, np.nan))


def mean_difference(
    values: Floats, first: Bools, clusters: Ints, resampling: Resampling
) -> Measure:
    """Mean of the ``first`` (N,) windows' values (N,) minus that of the others.

    Clusters are drawn once for both: one that has windows of either kind moves both means.
    """
    if first.all() or not first.any():
        return Measure(None, None, None)
    apart = np.stack([np.where(first, values, np.nan), np.where(first, np.nan, values)], axis=1)
    sums, sizes = _by_cluster(apart, clusters)
    mean = _ratio(sums.sum(axis=0), sizes.sum(axis=0))
    gap = float(mean[0] - mean[1])
    if (sizes > 0).sum(axis=0).min() < 2:
        return Measure.of(gap, Interval(np.nan, np.nan))
    means = resampling.resample(len(sums), lambda times: _ratio(times @ sums, times @ sizes))
    low, high = resampling.ends(means[:, 0] - means[:, 1])
    return Measure.of(gap, Interval(float(low), float(high)))


def _by_cluster(values: Floats, clusters: Ints) -> tuple[Floats, Floats]:
    """Sums of values (N,F) and how many are no NaN, by cluster: each (K,F)."""
    _, index = np.unique(clusters, return_inverse=True)
    known = ~np.isnan(values)
    count = int(index.max()) + 1
    sums, sizes = np.zeros((count, values.shape[1])), np.zeros((count, values.shape[1]))
    np.add.at(sums, index, np.where(known, values, 0.0))
    np.add.at(sizes, index, known.astype(np.float64))
    return sums, sizes


def _ratio(sums: Floats, sizes: Floats) -> Floats:
    return np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0)
