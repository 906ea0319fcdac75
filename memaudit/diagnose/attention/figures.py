"""Concentration of attention by group of windows and layer, and how well it tells them apart.

Knows arrays. Knows nothing of models or sentences. Letters: N windows, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.score.detection import Detection, roc_auc
from memaudit.score.stats import Floats, Interval, Ints, cluster_bootstrap


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


@dataclass(frozen=True)
class Chances:
    """How intervals are made."""

    confidence: float
    resamples: int
    seed: int


def mean(group: Windows, figure: str, layer: int, chances: Chances) -> Detection:
    """Of a figure over the windows of a group, in one layer."""
    values = group.figures[figure][:, layer]
    if not len(values):
        return Detection(np.nan, Interval(np.nan, np.nan))
    rng = np.random.default_rng([chances.seed, 1, layer])
    interval = cluster_bootstrap(
        values,
        group.clusters,
        confidence=chances.confidence,
        resamples=chances.resamples,
        rng=rng,
    )
    return Detection(float(values.mean()), interval)


def contrasts(
    one: Windows, other: Windows, layers: int, chances: Chances, *, together: bool
) -> list[Detection]:
    """AUC with which concentration (1 minus entropy) tells windows from others, by layer.

    together: intervals that hold for all layers at once (Bonferroni).
    """
    if not len(one) or not len(other):
        return [Detection(np.nan, Interval(0.0, 1.0))] * layers
    positive = np.repeat([True, False], [len(one), len(other)])
    clusters = np.concatenate([one.clusters, other.clusters])
    scores = 1 - np.concatenate([one.figures["entropy"], other.figures["entropy"]])
    confidence = 1 - (1 - chances.confidence) / (layers if together else 1)
    return [
        roc_auc(
            scores[:, layer],
            positive,
            clusters,
            confidence=confidence,
            resamples=chances.resamples,
            rng=np.random.default_rng([chances.seed, 2, layer]),
        )
        for layer in range(layers)
    ]


def strongest(found: Sequence[Detection]) -> int:
    """The layer whose AUC is furthest from a half; the first where there is none."""
    off = [abs(one.value - 0.5) if np.isfinite(one.value) else -1.0 for one in found]
    return int(np.argmax(off))
