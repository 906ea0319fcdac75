"""How well a score tells windows apart: ROC, AUC and precision, with intervals over clusters.

Knows scores, labels and cluster numbers as arrays. Knows nothing of what they mean.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from memaudit.score.stats import Bools, Floats, Interval, Ints, clopper_pearson, cluster_bootstrap


class Detection(NamedTuple):
    """A figure and its interval."""

    value: float
    """NaN where there is nothing to tell apart."""
    interval: Interval


class Roc(NamedTuple):
    """The curve: one point for each threshold, from (0,0) to (1,1)."""

    false_positives: Floats
    """Share of the negatives at or above the threshold."""
    true_positives: Floats
    """Share of the positives."""


def roc_auc(
    scores: Floats,
    positive: Bools,
    clusters: Ints,
    *,
    confidence: float,
    resamples: int,
    rng: np.random.Generator,
) -> Detection:
    """Probability that a positive scores above a negative, ties half (Hanley & McNeil 1982).

    scores, positive, clusters: (N,), the higher the more positive; a score may be infinite.
    Interval: percentile bootstrap that draws whole clusters, as `stats.cluster_bootstrap` does;
    resamples without a positive or without a negative are left out. NaN and (0, 1) where there
    are none at all. Where every positive is above every negative, or below, each resample is too,
    and the interval is that one point.

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
    drawn = int(cluster.max()) + 1
    found = np.empty(resamples)
    for number in range(resamples):
        weights = np.bincount(rng.integers(drawn, size=drawn), minlength=drawn)[cluster]
        found[number] = _auc(place, positive, weights.astype(np.float64))
    tail = (1 - confidence) / 2
    known = found[~np.isnan(found)]
    if not len(known):
        return Detection(value, Interval(0.0, 1.0))
    low, high = np.quantile(known, [tail, 1 - tail])
    return Detection(value, Interval(float(low), float(high)))


def _auc(place: Ints, positive: Bools, weights: Floats) -> float:
    """AUC of the rank of each score among the distinct ones (N,), windows counted by weight."""
    above = np.bincount(place, weights=weights * positive)
    below = np.bincount(place, weights=weights * ~positive)
    pairs = above.sum() * below.sum()
    if not pairs:
        return float("nan")
    return float(above @ (below.cumsum() - below / 2) / pairs)


def roc_curve(scores: Floats, positive: Bools) -> Roc:
    """The curve of scores (N,), the higher the more positive; at least one of each kind."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hit = positive[order]
    true, false = hit.cumsum()[last] / hit.sum(), (~hit).cumsum()[last] / (~hit).sum()
    return Roc(np.append(0.0, false), np.append(0.0, true))


def precision_at(
    k: int,
    scores: Floats,
    positive: Bools,
    clusters: Ints,
    *,
    confidence: float,
    resamples: int,
    rng: np.random.Generator,
) -> Detection:
    """Share of positives among the k windows with the highest scores (N,), k at most N.

    Which of equal scores are among them is drawn by lot. Interval: the outer ends of the exact
    (Clopper–Pearson) and the clustered one (bootstrap over the clusters of those k).
    """
    k = min(k, len(scores))
    if not k:
        return Detection(float("nan"), Interval(0.0, 1.0))
    first = np.lexsort((rng.permutation(len(scores)), -scores))[:k]
    hit = positive[first]
    exact = clopper_pearson(int(hit.sum()), k, confidence)
    clustered = cluster_bootstrap(
        hit, clusters[first], confidence=confidence, resamples=resamples, rng=rng
    )
    ends = Interval(min(exact.low, clustered.low), max(exact.high, clustered.high))
    return Detection(float(hit.mean()), ends)
