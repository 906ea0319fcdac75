"""How well a score separates two kinds of window: AUC, with an interval over clusters.

Knows scores, labels and cluster numbers as arrays. Knows nothing of what they mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from memaudit.score.stats import Bools, Floats, Interval, Ints, clopper_pearson

LEAST_CLUSTERS = 10
"""Fewest clusters of each kind that give an interval. With 10 positives among 300 windows of random
scores, 7 % of nominal 95 % intervals miss 0.5; with 5 it is 14 %, with 1 it is 89 %."""


class Detection(NamedTuple):
    """A figure and its interval."""

    value: float
    """NaN without both kinds of window."""
    interval: Interval


def roc_auc(
    scores: Floats,
    positive: Bools,
    clusters: Ints,
    *,
    confidence: float,
    resamples: int,
    rng: np.random.Generator,
) -> Detection:
    """Return the probability that a positive outscores a negative, ties counting half.

    Hanley & McNeil 1982. scores, positive, clusters: (N,); higher scores mean more positive, and a
    score may be infinite.

    The interval is a percentile bootstrap over whole clusters, as in `stats.cluster_bootstrap`;
    resamples that lack either kind are left out. It is (0, 1) if fewer than `LEAST_CLUSTERS`
    clusters hold a positive, or a negative: with so few, intervals of uninformative scores miss
    0.5 far too often. If every positive is above (or below) every negative, so is it in every
    resample; the interval is then the exact one of as many pairs as there are clusters of the rarer
    kind.

    Raises:
        ValueError: for a score that is NaN.
    """
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    _, place = np.unique(scores, return_inverse=True)
    value = _auc(place, positive, np.ones(len(scores)))
    if np.isnan(value):
        return Detection(value, Interval(0.0, 1.0))
    _, cluster = np.unique(clusters, return_inverse=True)
    rarer = min(len(np.unique(cluster[kind])) for kind in (positive, ~positive))
    if rarer < LEAST_CLUSTERS:
        return Detection(value, Interval(0.0, 1.0))
    if value in (0.0, 1.0):
        return Detection(value, clopper_pearson(int(value) * rarer, rarer, confidence))
    count = int(cluster.max()) + 1
    values = np.empty(resamples)
    for resample in range(resamples):
        weights = np.bincount(rng.integers(count, size=count), minlength=count)[cluster]
        values[resample] = _auc(place, positive, weights.astype(np.float64))
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Detection(value, Interval(float(low), float(high)))


def _auc(place: Ints, positive: Bools, weights: Floats) -> float:
    """Return the AUC of weighted windows; ``place`` (N,) ranks each among the distinct scores."""
    above = np.bincount(place, weights=weights * positive)
    below = np.bincount(place, weights=weights * ~positive)
    pairs = above.sum() * below.sum()
    if not pairs:
        return float("nan")
    return float(above @ (below.cumsum() - below / 2) / pairs)
