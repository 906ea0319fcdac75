"""Scores held side by side as detectors of some windows among others, on the same resamples.

Knows scores, labels, clusters and weights as arrays. Knows nothing of what they mean, nor of
torch. N stands for windows.

A window may stand for several: where only a part of a group was looked at, each window of it
weighs as many as were left out for it (Horvitz & Thompson 1952), so that precision is that of the
whole group. Within equals any order is as likely: figures are the expectation over it.
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
"""Share of the negatives that a threshold may let pass (Carlini et al. 2022, arXiv 2112.03570:
a membership score is of use where false positives are few)."""
GRID: Floats = np.concatenate([[0.0], np.logspace(-3, 0, 61)])
"""Shares of false positives at which curves are read off."""

_AT_FALSE = int(np.argmin(np.abs(GRID - FALSE_POSITIVES)))
_SHUFFLES = 200
_FIGURES = 2 + len(GRID)
"""Of a score in each resample: AUC, precision and curve."""


@dataclass(frozen=True, eq=False)
class Crowd:
    """N windows, some of which are to be found among the others."""

    positive: Bools
    """(N,)."""
    clusters: Ints
    """(N,)."""
    weights: Floats
    """(N,) windows that each stands for, itself among them."""

    @property
    def base_rate(self) -> float:
        """Share of the positives: the precision of any score that says nothing."""
        return float(self.weights @ self.positive / self.weights.sum())


@dataclass(frozen=True, eq=False)
class Detector:
    """How well one score finds the positives."""

    auc: Estimate
    """Probability that a positive scores above a negative, ties half."""
    precision: Estimate
    """Share of positives among the ``top`` highest."""
    found: Estimate
    """Share of the positives that score above all but `FALSE_POSITIVES` of the negatives."""
    curve: tuple[Estimate, ...]
    """(GRID): share of the positives found at each share of false positives."""
    area: Replicates
    """AUC alone, in each resample."""


def judge(
    scores: Mapping[str, Floats], crowd: Crowd, top: int, resamples: Resamples
) -> dict[str, Detector]:
    """Return how well each score (N,), higher for positives, finds the positives of a crowd.

    top: windows with the highest scores whose share of positives is the precision.

    Intervals are from the same resamples for every score, so that `gap` pairs them. Where those
    are blind, outer ends with an exact bound: of the precision, that (Clopper-Pearson) of as many
    windows as were really looked at; of none or all found, that over the clusters of the positives
    (`stats.agreeing`), which curves carry on to where they would else be surer; of an AUC of 0 or
    1, that of as many pairs as there are clusters of the rarer kind.

    Raises:
        ValueError: for a score that is NaN.
    """

    def figures(times: Floats) -> Floats:
        weights = crowd.weights * times
        return np.hstack([_figures(one, crowd.positive, weights, top) for one in scores.values()])

    replicates = resamples.replicate(crowd.clusters, figures)
    return {
        name: _detector(replicates.take(slice(start, start + _FIGURES)), scores[name], crowd, top)
        for name, start in zip(scores, range(0, len(replicates.values), _FIGURES), strict=True)
    }


def _figures(scores: Floats, positive: Bools, weights: Floats, top: int) -> Floats:
    """Return AUC, precision and curve (R,2+GRID) under weights (R,N)."""
    ranking = Ranking.of(scores, positive, weights)
    single = np.stack([ranking.area(), ranking.precision(top)], axis=1)
    return np.hstack([single, ranking.roc(GRID)])


def by_chance(crowd: Crowd, top: int, resamples: Resamples) -> Detector:
    """Return the mean of `_SHUFFLES` random scores, and the interval that they lie in."""
    rng = resamples.rng()
    weights = crowd.weights[None]
    shuffles = np.concatenate(
        [
            _figures(rng.random(len(crowd.positive)), crowd.positive, weights, top)
            for _ in range(_SHUFFLES)
        ]
    )
    replicates = Replicates(shuffles.mean(axis=0), shuffles, resamples.confidence)
    auc, precision, *curve = replicates.estimates()
    return Detector(auc, precision, curve[_AT_FALSE], tuple(curve), replicates.take(slice(0, 1)))


def gap(first: Detector, second: Detector, confidence: float) -> Estimate:
    """Return the AUC of one score minus that of another from the same resamples."""
    return replace(first.area.minus(second.area), confidence=confidence).estimates()[0]


def _detector(replicates: Replicates, scores: Floats, crowd: Crowd, top: int) -> Detector:
    confidence = replicates.confidence
    auc, precision, *curve = replicates.estimates()
    if precision.value is not None:
        examined = _examined(scores, crowd, top)
        exact = clopper_pearson(round(precision.value * examined), examined, confidence)
        precision = precision.wider(exact)
    if auc.value in (0.0, 1.0):
        fewest = fewest_clusters(crowd.clusters, crowd.positive, ~crowd.positive)
        auc = auc.wider(clopper_pearson(int(auc.value) * fewest, fewest, confidence))
    bounded = _curve(curve, crowd, confidence)
    return Detector(auc, precision, bounded[_AT_FALSE], bounded, replicates.take(slice(0, 1)))


def _curve(curve: Sequence[Estimate], crowd: Crowd, confidence: float) -> tuple[Estimate, ...]:
    """Return the shares found (GRID,) with ends that rise as they do, and never are points."""
    _, cluster = np.unique(crowd.clusters[crowd.positive], return_inverse=True)
    sizes = np.bincount(cluster, weights=crowd.weights[crowd.positive])
    ends = [
        found.wider(agreeing(sizes, found.value == 1, confidence))
        if found.value in (0.0, 1.0) and (0 < share < 1 or found.value != share)
        else found
        for share, found in zip(GRID.tolist(), curve, strict=True)
    ]
    low = np.minimum.accumulate([1.0 if one.low is None else one.low for one in ends[::-1]])[::-1]
    high = np.maximum.accumulate([0.0 if one.high is None else one.high for one in ends])
    return tuple(
        found if found.low is None else Estimate(found.value, float(least), float(most))
        for found, least, most in zip(ends, low, high, strict=True)
    )


def _examined(scores: Floats, crowd: Crowd, top: int) -> int:
    """Return how many windows the ``top`` highest are known from."""
    before = np.cumsum(crowd.weights[np.argsort(-scores, kind="stable")])
    return min(int(np.searchsorted(before, top * (1 - 1e-9))) + 1, len(before))
