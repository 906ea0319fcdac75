"""Scores held side by side as detectors of some windows among others, on the same resamples.

Knows scores, labels, clusters and weights as arrays. Knows nothing of what they mean, nor of
torch. N stands for windows.

A window may stand for several: where only a part of a group was looked at, each window of it
weighs as many as were left out for it (Horvitz & Thompson 1952), so that precision is that of the
whole group. Within equals any order is as likely: figures are the expectation over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.sure import outer
from memaudit.score.detection import Detection
from memaudit.score.stats import Bools, Floats, Interval, Ints, agreeing, clopper_pearson

FALSE_POSITIVES = 0.01
"""Share of the negatives that a threshold may let pass (Carlini et al. 2022, arXiv 2112.03570:
a membership score is of use where false positives are few)."""
GRID: Floats = np.concatenate([[0.0], np.logspace(-3, 0, 61)])
"""Shares of false positives at which curves are read off."""

_AT_FALSE = int(np.argmin(np.abs(GRID - FALSE_POSITIVES)))
_SHUFFLES = 200


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


@dataclass(frozen=True)
class Rules:
    """How detectors are judged."""

    top: int
    """Windows with the highest scores whose share of positives is the precision."""
    confidence: float
    resamples: int
    seed: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Detector:
    """How well one score finds the positives."""

    auc: Detection
    """Probability that a positive scores above a negative, ties half."""
    precision: Detection
    """Share of positives among the ``top`` highest."""
    found: Detection
    """Share of the positives that score above all but `FALSE_POSITIVES` of the negatives."""
    curve: tuple[Detection, ...]
    """(GRID): share of the positives found at each share of false positives."""
    resampled: Floats
    """(resamples,) AUC of each; NaN where one has no positive or no negative."""


class _Figures(NamedTuple):
    auc: float
    precision: float
    curve: Floats
    """(GRID,)."""


class _Ranked:
    """One score's windows, highest first, with the place where each run of equals ends."""

    def __init__(self, scores: Floats, positive: Bools, top: int) -> None:
        if np.isnan(scores).any():
            raise ValueError("a score is NaN")
        self.order = np.argsort(-scores, kind="stable")
        ranked = scores[self.order]
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self.positive = positive[self.order]
        self.top = top

    def figures(self, weights: Floats) -> _Figures:
        """Of windows that weigh (N,); NaN where there is nothing to tell apart."""
        mine = weights[self.order]
        every = np.append(0.0, np.cumsum(mine)[self.ends])
        hit = np.append(0.0, np.cumsum(mine * self.positive)[self.ends])
        missed = every - hit
        if not hit[-1] > 0 or not missed[-1] > 0:
            return _Figures(np.nan, np.nan, np.full(len(GRID), np.nan))
        top = min(float(self.top), float(every[-1]))
        return _Figures(
            auc=float(np.diff(missed) @ (hit[1:] + hit[:-1]) / 2 / (hit[-1] * missed[-1])),
            precision=float(np.interp(top, every, hit) / top),
            curve=np.interp(GRID * missed[-1], missed, hit) / hit[-1],
        )


def judge(scores: Mapping[str, Floats], crowd: Crowd, rules: Rules) -> dict[str, Detector]:
    """How well each score (N,), the higher the more positive, finds the positives of a crowd.

    Intervals: percentile bootstrap that draws whole clusters, the same for every score, so that
    `gap` pairs them. Where that is blind, outer ends with an exact bound: of the precision, that
    (Clopper-Pearson) of as many windows as were really looked at; of none or all found, that over
    the clusters of the positives (`stats.agreeing`), which curves carry on to where they would else
    be surer; of an AUC of 0 or 1, that of as many pairs as there are clusters of the rarer kind.

    Raises:
        ValueError: for a score that is NaN.
    """
    ranked = {name: _Ranked(one, crowd.positive, rules.top) for name, one in scores.items()}
    _, cluster = np.unique(crowd.clusters, return_inverse=True)
    drawn = int(cluster.max()) + 1
    rng = np.random.default_rng(rules.seed)
    found: dict[str, list[_Figures]] = {name: [] for name in scores}
    for _ in range(rules.resamples):
        times = np.bincount(rng.integers(drawn, size=drawn), minlength=drawn)[cluster]
        weights = crowd.weights * times
        for name, one in ranked.items():
            found[name].append(one.figures(weights))
    return {name: _detector(one, found[name], crowd, rules) for name, one in ranked.items()}


def by_chance(crowd: Crowd, rules: Rules) -> Detector:
    """What scores that say nothing come to: the mean of `_SHUFFLES` random ones, and the interval
    that so large a share of them lies in.
    """
    rng = np.random.default_rng([*rules.seed, 1])
    count = len(crowd.positive)
    found = [
        _Ranked(rng.random(count), crowd.positive, rules.top).figures(crowd.weights)
        for _ in range(_SHUFFLES)
    ]
    curves = np.array([figures.curve for figures in found])  # (shuffles, GRID)
    aucs = np.array([figures.auc for figures in found])
    curve = tuple(_spread(column, rules.confidence) for column in curves.T)
    return Detector(
        auc=_spread(aucs, rules.confidence),
        precision=_spread(np.array([figures.precision for figures in found]), rules.confidence),
        found=curve[_AT_FALSE],
        curve=curve,
        resampled=np.full(rules.resamples, np.nan),
    )


def _spread(values: Floats, confidence: float) -> Detection:
    return Detection(float(values.mean()), _ends(values, confidence))


def gap(one: Detector, other: Detector, confidence: float) -> Detection:
    """AUC of one score minus that of another that was judged with it, resample by resample."""
    apart = one.resampled - other.resampled
    return Detection(one.auc.value - other.auc.value, _ends(apart, confidence, (-1.0, 1.0)))


def _detector(one: _Ranked, found: list[_Figures], crowd: Crowd, rules: Rules) -> Detector:
    whole = one.figures(crowd.weights)
    confidence = rules.confidence
    aucs = np.array([figures.auc for figures in found])
    curves = np.array([figures.curve for figures in found])  # (resamples, GRID)
    precision = _ends(np.array([figures.precision for figures in found]), confidence)
    if np.isfinite(whole.precision):
        looked_at = _looked_at(one, crowd, rules.top)
        exact = clopper_pearson(round(whole.precision * looked_at), looked_at, confidence)
        precision = outer(precision, exact)
    auc, parted = _ends(aucs, confidence), _parted(whole, crowd, rules)
    if parted is not None:
        auc = outer(auc, parted)
    curve = _curve(whole.curve, curves, crowd, confidence)
    return Detector(
        auc=Detection(whole.auc, auc),
        precision=Detection(whole.precision, precision),
        found=curve[_AT_FALSE],
        curve=curve,
        resampled=aucs,
    )


def _curve(
    whole: Floats, resampled: Floats, crowd: Crowd, confidence: float
) -> tuple[Detection, ...]:
    """Of shares (GRID,) and those of resamples (resamples, GRID)."""
    _, cluster = np.unique(crowd.clusters[crowd.positive], return_inverse=True)
    sizes = np.bincount(cluster, weights=crowd.weights[crowd.positive])
    ends = [_ends(column, confidence) for column in resampled.T]
    if len(sizes):
        for at in np.flatnonzero((whole == 0) | (whole == 1)):
            if 0 < GRID[at] < 1 or whole[at] != GRID[at]:
                ends[at] = outer(ends[at], agreeing(sizes, bool(whole[at]), confidence))
    low = np.minimum.accumulate([one.low for one in reversed(ends)])[::-1]
    high = np.maximum.accumulate([one.high for one in ends])
    return tuple(
        Detection(float(value), Interval(float(least), float(most)))
        for value, least, most in zip(whole, low, high, strict=True)
    )


def _parted(whole: _Figures, crowd: Crowd, rules: Rules) -> Interval | None:
    """Bound of the AUC where every positive is above every negative, or below."""
    if whole.auc not in (0.0, 1.0):
        return None
    rarer = min(len(np.unique(crowd.clusters[kind])) for kind in (crowd.positive, ~crowd.positive))
    return clopper_pearson(int(whole.auc) * rarer, rarer, rules.confidence)


def _looked_at(one: _Ranked, crowd: Crowd, top: int) -> int:
    """Windows that the ``top`` highest are known from."""
    before = np.cumsum(crowd.weights[one.order])
    return min(int(np.searchsorted(before, top * (1 - 1e-9))) + 1, len(before))


def _ends(values: Floats, confidence: float, widest: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """Percentile interval of what is a number in (resamples,)."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Interval(*widest)
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(float(low), float(high))
