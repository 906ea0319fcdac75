"""Concentration of attention by group of windows and layer, and how well it tells them apart.

Knows arrays. Knows nothing of models or sentences. Letters: N windows, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.diagnose.sure import Sure
from memaudit.score.detection import Detection, roc_auc
from memaudit.score.stats import Bools, Floats, Interval, Ints, cluster_bootstrap


@dataclass(frozen=True, eq=False)
class Windows:
    """A group of windows: what was read of each."""

    name: str
    clusters: Ints
    """(N,)."""
    figures: Mapping[str, Floats]
    """Name -> (N,L)."""

    def __len__(self) -> int:
        return len(self.clusters)


def mean(group: Windows, figure: str, layer: int, sure: Sure) -> Detection:
    """Of a figure over the windows of a group, in one layer."""
    values = group.figures[figure][:, layer]
    if not len(values):
        return Detection(np.nan, Interval(np.nan, np.nan))
    rng = np.random.default_rng([sure.seed, 1, layer])
    interval = cluster_bootstrap(
        values,
        group.clusters,
        confidence=sure.confidence,
        resamples=sure.resamples,
        rng=rng,
    )
    return Detection(float(values.mean()), interval)


def contrasts(
    one: Windows, other: Windows, layers: int, sure: Sure, *, together: bool
) -> list[Detection]:
    """AUC with which concentration (1 minus entropy) tells windows from others, by layer.

    together: intervals that hold for all layers at once, by `_at_once`.
    """
    if not len(one) or not len(other):
        return [Detection(np.nan, Interval(0.0, 1.0))] * layers
    positive = np.repeat([True, False], [len(one), len(other)])
    clusters = np.concatenate([one.clusters, other.clusters])
    scores = 1 - np.concatenate([one.figures["entropy"], other.figures["entropy"]])
    confidence = 1 - (1 - sure.confidence) / (layers if together else 1)
    found = [
        roc_auc(
            scores[:, layer],
            positive,
            clusters,
            confidence=confidence,
            resamples=sure.resamples,
            rng=np.random.default_rng([sure.seed, 2, layer]),
        )
        for layer in range(layers)
    ]
    return _at_once(found, scores, positive, clusters, sure) if together else found


def _at_once(
    found: Sequence[Detection], scores: Floats, positive: Bools, clusters: Ints, sure: Sure
) -> list[Detection]:
    """AUCs with intervals from the largest studentised deviation over all layers in each resample
    of clusters (Westfall & Young 1993, max-t); scores (N,L).

    A layer where windows are wholly apart, so in each resample, keeps the interval that it has, as
    does one of which too few clusters say nothing.
    """
    _, place = np.unique(clusters, return_inverse=True)
    count = int(place.max()) + 1
    rng = np.random.default_rng([sure.seed, 3])
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=sure.resamples)[:, place]
    drawn = drawn[drawn[:, positive].any(axis=1) & drawn[:, ~positive].any(axis=1)]
    above, below = drawn[:, positive].astype(np.float64), drawn[:, ~positive].astype(np.float64)
    aucs = np.empty((len(drawn), len(found)))  # (R,L)
    for layer, column in enumerate(scores.T):
        wins = np.sign(column[positive][:, None] - column[~positive]) / 2 + 0.5
        pairs = above.sum(axis=1) * below.sum(axis=1)
        aucs[:, layer] = ((above @ wins) * below).sum(axis=1) / pairs
    values = np.array([one.value for one in found])
    spread = aucs.std(axis=0)
    told = np.array([one.interval != Interval(0.0, 1.0) for one in found])
    varied = told & (spread > 1e-9)
    if not varied.any():
        return list(found)
    off = np.abs(aucs - values)[:, varied] / spread[varied]
    reach = float(np.quantile(off.max(axis=1), sure.confidence)) * spread
    return [
        Detection(one.value, Interval(max(0.0, one.value - far), min(1.0, one.value + far)))
        if vary
        else one
        for one, far, vary in zip(found, reach.tolist(), varied, strict=True)
    ]


def strongest(found: Sequence[Detection]) -> int:
    """The layer whose AUC is furthest from a half; the first where there is none."""
    off = [abs(one.value - 0.5) if np.isfinite(one.value) else -1.0 for one in found]
    return int(np.argmax(off))
