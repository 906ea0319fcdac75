"""Scores compared as detectors of some windows, on the same resamples.

Knows scores, labels, clusters and weights as arrays. Must not know their meaning, nor torch. N is
the number of windows.

A window may represent several: if only a sample of a group was read, each of its windows has the
inverse of its sampling rate as weight (Horvitz & Thompson 1952), so that precision is that of the
whole group. Ties are in random order: figures are expectations over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memaudit.score.estimate import Estimate
from memaudit.score.ranking import Ranking
from memaudit.score.resample import Replicates, Resamples, fewest_clusters
from memaudit.score.stats import Bools, Floats, Ints, agreeing, clopper_pearson

FALSE_POSITIVES = 0.01
"""Share of the negatives that may pass a threshold (Carlini et al. 2022, arXiv 2112.03570: a
membership score is useful if it finds members at few false positives)."""
GRID: Floats = np.concatenate([[0.0], np.logspace(-3, 0, 61)])
"""Shares of false positives of the points of a curve."""

_AT_FALSE = int(np.argmin(np.abs(GRID - FALSE_POSITIVES)))
_SHUFFLES = 200
_FIGURES = 2 + len(GRID)
"""Figures of a score in each resample: AUC, precision and curve."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """N windows, some of which are positive."""

    positive: Bools
    """(N,)."""
    clusters: Ints
    """(N,)."""
    weights: Floats
    """(N,) windows that each represents, including itself."""

    @property
    def base_rate(self) -> float:
        """Share of the positives: the precision of a random score."""
        return float(self.weights @ self.positive / self.weights.sum())


@dataclass(frozen=True, eq=False)
class Detector:
    """How well one score finds the positives."""

    auc: Estimate
    """Probability that a positive scores above a negative; ties count half."""
    precision: Estimate
    """Share of positives among the ``top`` highest."""
    recall: Estimate
    """Share of the positives that score above all but `FALSE_POSITIVES` of the negatives."""
    curve: tuple[Estimate, ...]
    """(GRID) share of the positives found at each share of false positives."""
    area: Replicates
    """AUC in each resample."""


def judge(
    scores: Mapping[str, Floats], windows: Labelled, top: int, resamples: Resamples
) -> dict[str, Detector]:
    """Judge how well each score (N,), higher for positives, finds the positives.

    top: windows with the highest scores whose share of positives is the precision.

    Every score has the same resamples, so that `gap` pairs them. Where resamples have no width,
    an exact bound widens the interval: for the precision, that (Clopper-Pearson) of the windows
    read; if none or all are found, that over the clusters of the positives (`stats.agreeing`),
    which also bounds the rest of the curve; for an AUC of 0 or 1, that of as many pairs as there
    are clusters of the rarer kind.

    Raises:
        ValueError: for a score that is NaN.
    """

    def figures(times: Floats) -> Floats:
        weights = windows.weights * times
        return np.hstack(
            [_figures(values, windows.positive, weights, top) for values in scores.values()]
        )

    replicates = resamples.replicate(windows.clusters, figures)
    return {
        name: _detector(replicates.take(slice(start, start + _FIGURES)), scores[name], windows, top)
        for name, start in zip(scores, range(0, len(replicates.values), _FIGURES), strict=True)
    }


def _figures(scores: Floats, positive: Bools, weights: Floats, top: int) -> Floats:
    """Return AUC, precision and curve (R,2+GRID) under weights (R,N)."""
    ranking = Ranking.of(scores, positive, weights)
    single = np.stack([ranking.area(), ranking.precision(top)], axis=1)
    return np.hstack([single, ranking.roc(GRID)])


def by_chance(windows: Labelled, top: int, resamples: Resamples) -> Detector:
    """Judge `_SHUFFLES` random scores: their mean, and the interval that they lie in."""
    rng = resamples.rng()
    weights = windows.weights[None]
    shuffles = np.concatenate(
        [
            _figures(rng.random(len(windows.positive)), windows.positive, weights, top)
            for _ in range(_SHUFFLES)
        ]
    )
    replicates = Replicates(shuffles.mean(axis=0), shuffles, resamples.confidence)
    auc, precision, *curve = replicates.estimates()
    return Detector(auc, precision, curve[_AT_FALSE], tuple(curve), replicates.take(slice(0, 1)))


def gap(first: Detector, second: Detector, confidence: float) -> Estimate:
    """Return the AUC of one score minus that of another from the same resamples."""
    return replace(first.area.minus(second.area), confidence=confidence).estimates()[0]


def _detector(replicates: Replicates, scores: Floats, windows: Labelled, top: int) -> Detector:
    confidence = replicates.confidence
    auc, precision, *curve = replicates.estimates()
    if precision.value is not None:
        examined = _examined(scores, windows, top)
        exact = clopper_pearson(round(precision.value * examined), examined, confidence)
        precision = precision.wider(exact)
    if auc.value in (0.0, 1.0):
        fewest = fewest_clusters(windows.clusters, windows.positive, ~windows.positive)
        auc = auc.wider(clopper_pearson(int(auc.value) * fewest, fewest, confidence))
    bounded = _curve(curve, windows, confidence)
    return Detector(auc, precision, bounded[_AT_FALSE], bounded, replicates.take(slice(0, 1)))


def _curve(curve: Sequence[Estimate], windows: Labelled, confidence: float) -> tuple[Estimate, ...]:
    """Return the curve (GRID,) with bounds that never fall, and with no interval of width 0."""
    _, cluster = np.unique(windows.clusters[windows.positive], return_inverse=True)
    sizes = np.bincount(cluster, weights=windows.weights[windows.positive])
    ends = [
        estimate.wider(agreeing(sizes, estimate.value == 1, confidence))
        if estimate.value in (0.0, 1.0) and (0 < share < 1 or estimate.value != share)
        else estimate
        for share, estimate in zip(GRID.tolist(), curve, strict=True)
    ]
    low = np.minimum.accumulate([1.0 if end.low is None else end.low for end in ends[::-1]])[::-1]
    high = np.maximum.accumulate([0.0 if end.high is None else end.high for end in ends])
    return tuple(
        estimate if estimate.low is None else Estimate(estimate.value, float(lower), float(upper))
        for estimate, lower, upper in zip(ends, low, high, strict=True)
    )


def _examined(scores: Floats, windows: Labelled, top: int) -> int:
    """Return the number of windows read that represent the ``top`` highest."""
    before = np.cumsum(windows.weights[np.argsort(-scores, kind="stable")])
    return min(int(np.searchsorted(before, top * (1 - 1e-9))) + 1, len(before))
