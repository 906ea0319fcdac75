"""Concentration of attention by group and layer, and its contrast between groups.

Knows arrays. Knows nothing of models or wording. Letters: N windows, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Floats, Ints


@dataclass(frozen=True, eq=False)
class Windows:
    """Figures of a group of windows."""

    name: str
    clusters: Ints
    """(N,)."""
    figures: Mapping[str, Floats]
    """(N,L) figures by name."""

    def __len__(self) -> int:
        return len(self.clusters)


def contrasts(
    first: Windows, second: Windows, resamples: Resamples, *, together: bool
) -> list[Estimate]:
    """Return by layer the AUC of concentration (1 minus entropy), first windows against second.

    together: intervals hold for all layers at once.
    """
    positive = np.repeat([True, False], [len(first), len(second)])
    clusters = np.concatenate([first.clusters, second.clusters])
    scores = 1 - np.concatenate([first.figures["entropy"], second.figures["entropy"]])
    return resamples.aucs(scores, positive, clusters, together=together)


def strongest(aucs: Sequence[Estimate]) -> int:
    """Return the layer whose AUC is furthest from a half; the first if none is known."""
    return int(np.argmax([-1.0 if auc.value is None else abs(auc.value - 0.5) for auc in aucs]))
