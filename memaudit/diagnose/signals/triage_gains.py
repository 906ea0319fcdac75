"""Gains of scanning the riskiest windows first, with intervals.

Knows risks, labels and cluster numbers as arrays. Must not know where risks come from.
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
    """Gains of scanning the riskiest of N windows first."""

    reached: list[Estimate]
    """(G) share of all positives that lie in the riskiest x of the windows, for each x."""
    precision: list[Estimate]
    """(G) share of positives among these windows."""
    needed: list[Estimate]
    """(R) share of the windows to scan for each share of the positives."""
    average_precision: Estimate
    area: Estimate
    """AUC."""


def area_above(
    scores: Floats, rival: Floats, positive: Bools, clusters: Ints, resamples: Resamples
) -> Estimate:
    """Return the AUC of scores (N,) minus a rival's (N,), on the same resamples of clusters."""

    def gap(times: Floats) -> Floats:
        first, second = (Ranking.of(values, positive, times).area() for values in (scores, rival))
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

    Intervals resample whole clusters and leave the scores as they are. If all or no positives are
    among the riskiest, or all or none of the riskiest are positive, they are the exact bound over
    their clusters (`stats.agreeing`). More windows hold no fewer positives, so a lower bound also
    holds for larger shares. ``shares`` is (G,).
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
    reached = [_bounded(estimate, positive, clusters, resamples) for estimate in estimates[:size]]
    order = np.argsort(-scores, kind="stable")
    precision = []
    for estimate, share in zip(estimates[size : 2 * size], shares.tolist(), strict=True):
        riskiest = np.zeros(len(scores), dtype=bool)
        riskiest[order[: max(1, math.ceil(share * len(scores)))]] = True
        precision.append(_bounded(estimate, riskiest, clusters, resamples))
    return Gains(rising(reached, shares), precision, estimates[2 * size : -2], *estimates[-2:])


def _bounded(estimate: Estimate, among: Bools, clusters: Ints, resamples: Resamples) -> Estimate:
    """Return the exact interval if all windows ``among`` (N,) agree; a bootstrap has no width."""
    if estimate.value is None or 1e-9 < estimate.value < 1 - 1e-9:
        return estimate
    hits = np.full(int(among.sum()), estimate.value > 0.5)
    return Estimate.of(estimate.value, resamples.clustered(hits, clusters[among]))


def rising(estimates: list[Estimate], shares: Floats) -> list[Estimate]:
    """Make lower bounds never fall from a share (G,) to a larger share; share 1 has bound 1."""
    bounded, low = list(estimates), 0.0
    for place in np.argsort(shares, kind="stable").tolist():
        estimate = estimates[place]
        if estimate.value is None or estimate.low is None:
            continue
        low = 1.0 if shares[place] >= 1 else max(low, min(estimate.low, estimate.value))
        bounded[place] = Estimate(estimate.value, low, estimate.high)
    return bounded
