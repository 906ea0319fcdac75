"""What looking at the riskiest windows first brings: ranked risks, judged with intervals.

Knows risks, labels and cluster numbers as arrays. Knows nothing of where risks come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from memaudit.score.estimate import Estimate
from memaudit.score.ranking import Ranking
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Gains:
    """What looking at the riskiest windows first brings, on N windows."""

    reached: list[Estimate]
    """Share of all positives among the riskiest x of the windows, for each x asked (G)."""
    precision: list[Estimate]
    """Share of positives among those windows (G)."""
    needed: list[Estimate]
    """Share of the windows to be looked at for each part of the positives asked (R)."""
    average_precision: Estimate
    area: Estimate
    """AUC."""


def area_above(
    scores: Floats, rival: Floats, positive: Bools, clusters: Ints, resamples: Resamples
) -> Estimate:
    """Return the AUC of scores (N,) minus a rival's (N,), on the same resamples of clusters."""

    def gap(times: Floats) -> Floats:
        first, second = (Ranking.of(one, positive, times).area() for one in (scores, rival))
        return (first - second)[:, None]

    return resamples.replicate(clusters, gap).estimates()[0]


def gains(
    scores: Floats,
    positive: Bools,
    clusters: Ints,
    *,
    shares: Floats,
    reaches: Floats,
    resamples: Resamples,
) -> Gains:
    """Return the gains of scores (N,), higher for riskier windows, at ``shares`` and ``reaches``.

    Intervals are over whole clusters, the scores as they are; where all or no positives are among
    the riskiest, or all or none of the riskiest are positive, the exact bound over their clusters
    (`stats.agreeing`). More windows hold no fewer positives, so that a bound from below holds for
    larger shares too. ``shares`` is (G,).
    """

    def figures(times: Floats) -> Floats:
        ranking = Ranking.of(scores, positive, times)
        recall = ranking.recall(shares)
        size = shares * ranking.windows[:, -1:]
        precision = recall * ranking.positives[:, -1:] / size
        single = np.stack([ranking.average_precision(), ranking.area()], axis=1)
        return np.hstack([recall, precision, ranking.needed(reaches), single])

    estimates = resamples.replicate(clusters, figures).estimates()
    size = len(shares)
    reached = [_bounded(one, positive, clusters, resamples) for one in estimates[:size]]
    order = np.argsort(-scores, kind="stable")
    precision = []
    for one, share in zip(estimates[size : 2 * size], shares.tolist(), strict=True):
        riskiest = np.zeros(len(scores), dtype=bool)
        riskiest[order[: max(1, math.ceil(share * len(scores)))]] = True
        precision.append(_bounded(one, riskiest, clusters, resamples))
    return Gains(rising(reached, shares), precision, estimates[2 * size : -2], *estimates[-2:])


def _bounded(one: Estimate, among: Bools, clusters: Ints, resamples: Resamples) -> Estimate:
    """Return the exact interval if all windows ``among`` (N,) agree: a bootstrap is blind there."""
    if one.value is None or 1e-9 < one.value < 1 - 1e-9:
        return one
    hits = np.full(int(among.sum()), one.value > 0.5)
    return Estimate.of(one.value, resamples.clustered(hits, clusters[among]))


def rising(found: list[Estimate], shares: Floats) -> list[Estimate]:
    """With bounds from below that never fall from a share (G,) to a larger one; all hold all."""
    bounded, low = list(found), 0.0
    for place in np.argsort(shares, kind="stable").tolist():
        one = found[place]
        if one.value is None or one.low is None:
            continue
        low = 1.0 if shares[place] >= 1 else max(low, min(one.low, one.value))
        bounded[place] = Estimate(one.value, low, one.high)
    return bounded
