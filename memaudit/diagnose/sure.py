"""How sure a figure is: intervals of shares and means over windows that come in clusters.

Knows figures and cluster numbers as arrays. Knows nothing of what they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from memaudit.diagnose.disclosure import Disclosure
from memaudit.report.diagnosis import Measure
from memaudit.score.stats import (
    Bools,
    Floats,
    Interval,
    Ints,
    clopper_pearson,
    cluster_bootstrap,
    clustered_rate,
)

_DRAWS = 41
"""Sets the resamples of these intervals apart from other random choices of one seed."""


@dataclass(frozen=True)
class Sure:
    """How sure the intervals are, and how their resamples are drawn.

    Each interval draws anew from the same seed, so that none depends on which others are made.
    """

    confidence: float
    resamples: int
    seed: int
    disclosure: Disclosure = field(default_factory=Disclosure)
    """Which groups have figures at all; the others are written as n/a."""

    def rng(self) -> np.random.Generator:
        """For the resamples of one interval."""
        return np.random.default_rng([self.seed, _DRAWS])

    def rate(self, hits: Bools, clusters: Ints) -> Measure:
        """Share of windows (N,): the outer ends of the exact interval and that over clusters."""
        if not len(hits) or not self.disclosure.covers(clusters):
            return Measure(None, None, None)
        exact = clopper_pearson(int(hits.sum()), len(hits), self.confidence)
        drawn = clustered_rate(
            hits, clusters, confidence=self.confidence, resamples=self.resamples, rng=self.rng()
        )
        return Measure.of(float(hits.mean()), outer(exact, drawn))

    def mean(self, values: Floats, clusters: Ints) -> Measure:
        """Mean of values (N,) that are numbers, with an interval over clusters.

        Without an interval where there is one cluster alone: nothing is known of its spread.
        """
        return self.weighted_mean(values, clusters, np.ones(len(values)))

    def change(
        self, values: Floats, before: Floats, clusters: Ints, weights: Floats | None = None
    ) -> Measure:
        """Mean of values (N,) less those before, on the same windows.

        Without an interval where no window differs: resamples would say that none could.
        """
        apart = values - before
        every = np.ones(len(apart)) if weights is None else weights
        found = self.weighted_mean(apart, clusters, every)
        return found if np.any(apart) else Measure(found.value, None, None)

    def weighted_mean(self, values: Floats, clusters: Ints, weights: Floats) -> Measure:
        """Likewise, each value (N,) counted by the windows that it stands for."""
        known = np.isfinite(values)
        values, clusters, weights = values[known], clusters[known], weights[known]
        if not len(values) or not self.disclosure.covers(clusters):
            return Measure(None, None, None)
        value = float(np.average(values, weights=weights))
        if len(np.unique(clusters)) < 2:
            return Measure.of(value, Interval(math.nan, math.nan))
        return Measure.of(value, self.bootstrap(values, clusters, weights))

    def bootstrap(
        self, values: npt.NDArray[np.generic], clusters: Ints, weights: Floats
    ) -> Interval:
        """Percentile bootstrap of a weighted mean (N,), drawing whole clusters."""
        return cluster_bootstrap(
            values,
            clusters,
            confidence=self.confidence,
            resamples=self.resamples,
            rng=self.rng(),
            weights=weights,
        )


def outer(first: Interval, second: Interval) -> Interval:
    """From the lower of the lower ends to the higher of the higher ones; NaN is no end."""
    return Interval(float(np.fmin(first.low, second.low)), float(np.fmax(first.high, second.high)))
