"""What looking at the riskiest windows first brings: ranked risks, judged with intervals.

Knows risks, labels and cluster numbers as arrays. Knows nothing of where risks come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.signals.means import Resampling
from memaudit.report.diagnosis import Measure
from memaudit.score.stats import Bools, Floats, Interval, Ints, clustered_rate


class _Ranking(NamedTuple):
    """Windows from the riskiest on, those of equal risk in one step; both begin with 0."""

    all: Floats
    positive: Floats


def _rank(place: Ints, positive: Bools, weights: Floats) -> _Ranking:
    every = np.bincount(place, weights=weights).cumsum()
    hits = np.bincount(place, weights=weights * positive).cumsum()
    return _Ranking(np.append(0.0, every), np.append(0.0, hits))


def _reached(ranking: _Ranking, shares: Floats) -> Floats:
    """Positives among the riskiest ``shares`` (G,) of the windows, as a share of all positives.

    Of windows of equal risk as many as there would be on average, were they drawn by lot.
    """
    if not ranking.positive[-1]:
        return np.full(len(shares), np.nan)
    found = np.interp(shares * ranking.all[-1], ranking.all, ranking.positive)
    return np.asarray(found / ranking.positive[-1])


def _needed(ranking: _Ranking, reaches: Floats) -> Floats:
    """The share of the windows that has to be looked at for so much (R,) of the positives."""
    if not ranking.positive[-1]:
        return np.full(len(reaches), np.nan)
    wanted = reaches * ranking.positive[-1]
    after = np.maximum(1, np.searchsorted(ranking.positive, wanted * (1 - 1e-12)))
    before = ranking.positive[after - 1]
    part = (wanted - before) / (ranking.positive[after] - before)
    start, end = ranking.all[after - 1], ranking.all[after]
    return np.asarray((start + part * (end - start)) / ranking.all[-1])


def _area(ranking: _Ranking) -> float:
    """AUC: the share of pairs whose positive is the riskier, ties half."""
    hits = np.diff(ranking.positive)
    missed = np.diff(ranking.all) - hits
    pairs = hits.sum() * missed.sum()
    if not pairs:
        return math.nan
    return float(hits @ (missed.sum() - missed.cumsum() + missed / 2) / pairs)


def _average_precision(ranking: _Ranking) -> float:
    """Mean precision at the positives, from the riskiest on; equal risks in one step."""
    if not ranking.positive[-1]:
        return math.nan
    every, hits = ranking.all[1:], ranking.positive[1:]
    precision = np.divide(hits, every, out=np.zeros_like(hits), where=every > 0)
    return float(np.diff(ranking.positive) @ precision / ranking.positive[-1])


@dataclass(frozen=True, eq=False)
class Gains:
    """What looking at the riskiest windows first brings, on N windows."""

    reached: list[Measure]
    """Share of all positives among the riskiest x of the windows, for each x asked (G)."""
    precision: list[Measure]
    """Share of positives among those windows (G)."""
    needed: list[Measure]
    """Share of the windows to be looked at for each part of the positives asked (R)."""
    average_precision: Measure
    area: Measure
    """AUC."""


def area_above(
    scores: Floats, rival: Floats, positive: Bools, clusters: Ints, resampling: Resampling
) -> Measure:
    """AUC of scores (N,) minus that of a rival's (N,), on the same resamples of clusters."""
    places = [np.unique(-one, return_inverse=True)[1] for one in (scores, rival)]
    _, cluster = np.unique(clusters, return_inverse=True)

    def gap(weights: Floats) -> float:
        first, second = (_area(_rank(place, positive, weights)) for place in places)
        return first - second

    found = resampling.resample(
        int(cluster.max()) + 1, lambda drawn: np.array([gap(times[cluster]) for times in drawn])
    )
    low, high = resampling.ends(found)
    return Measure.of(gap(np.ones(len(scores))), Interval(float(low), float(high)))


def gains(
    scores: Floats,
    positive: Bools,
    clusters: Ints,
    *,
    shares: Floats,
    reaches: Floats,
    resampling: Resampling,
) -> Gains:
    """Gains of scores (N,), the higher the riskier, at ``shares`` (G,) and ``reaches`` (R,).

    Intervals: percentile bootstrap over whole clusters, the scores as they are; where all or no
    positives are among the riskiest, or all or none of the riskiest are positive, the exact bound
    over their clusters (`stats.agreeing`). More
    windows hold no fewer positives, so that a bound from below holds for larger shares too.
    """
    _, place = np.unique(-scores, return_inverse=True)
    _, cluster = np.unique(clusters, return_inverse=True)

    def figures(weights: Floats) -> Floats:
        ranking = _rank(place, positive, weights)
        reached = _reached(ranking, shares)
        precision = reached * ranking.positive[-1] / (shares * ranking.all[-1])
        rest = [_needed(ranking, reaches), [_average_precision(ranking), _area(ranking)]]
        return np.concatenate([reached, precision, *rest])

    value = figures(np.ones(len(scores)))
    found = resampling.resample(
        int(cluster.max()) + 1,
        lambda drawn: np.stack([figures(times[cluster]) for times in drawn]),
    )
    low, high = resampling.ends(found)
    measures = [
        Measure.of(float(one), Interval(float(start), float(end)))
        for one, start, end in zip(value, low, high, strict=True)
    ]
    size = len(shares)
    reached = [_bounded(one, positive, clusters, resampling) for one in measures[:size]]
    reached = rising(reached, shares)
    order = np.argsort(-scores, kind="stable")
    precision = []
    for one, share in zip(measures[size : 2 * size], shares.tolist(), strict=True):
        riskiest = np.zeros(len(scores), dtype=bool)
        riskiest[order[: max(1, math.ceil(share * len(scores)))]] = True
        precision.append(_bounded(one, riskiest, clusters, resampling))
    return Gains(reached, precision, measures[2 * size : -2], *measures[-2:])


def _bounded(one: Measure, among: Bools, clusters: Ints, resampling: Resampling) -> Measure:
    """With the exact interval where all that it is a share of (N,) say the same: a bootstrap is
    blind there.
    """
    if one.value is None or 1e-9 < one.value < 1 - 1e-9:
        return one
    hits = np.full(int(among.sum()), one.value > 0.5)
    return Measure.of(one.value, clustered_rate(hits, clusters[among], **resampling.options))


def rising(found: list[Measure], shares: Floats) -> list[Measure]:
    """With bounds from below that never fall from a share (G,) to a larger one; all hold all."""
    bounded, low = list(found), 0.0
    for place in np.argsort(shares, kind="stable").tolist():
        one = found[place]
        if one.value is None or one.low is None:
            continue
        low = 1.0 if shares[place] >= 1 else max(low, min(one.low, one.value))
        bounded[place] = Measure(one.value, low, one.high)
    return bounded
