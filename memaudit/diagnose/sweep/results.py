"""What fitted variants came to: each on the same windows, held beside each other in pairs.

Knows verdicts and how each fit went, as arrays and figures. Knows no model and loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.attack.facts import FitRecord
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats, Interval, Ints, paired_clustered, paired_exact

CLOSE = 1.01
"""A select NLL within 1 % of the best has converged."""


@dataclass(frozen=True, eq=False)
class Result:
    """One variant, fitted in every fold, and scored."""

    name: str
    virtual_tokens: int
    """V; 0 without a prompt."""
    seed: int
    exact: Bools
    """(n,)."""
    nll: Floats
    """(n,) suffix NLL of windows that the prompt never saw, nats/token."""
    controls: Bools | None
    records: tuple[FitRecord, ...]
    seconds: float

    @property
    def before(self) -> float:
        """Select NLL before the first step, mean over folds."""
        return float(np.mean([record.epochs[0].select_nll for record in self.records]))

    @property
    def best(self) -> float:
        """Least select NLL, mean over folds."""
        return float(np.mean([_least(record) for record in self.records]))

    @property
    def converged(self) -> float:
        """First epoch within 1 % of the best, mean over folds."""
        return float(np.mean([_converged(record) for record in self.records]))

    @property
    def chosen(self) -> str:
        """What each fold audits with, as ``3, 4``; ``-`` for no prompt."""
        words = [record.chosen.removeprefix("epoch ") for record in self.records]
        return ", ".join(word if word.isdigit() else "-" for word in words)


@dataclass(frozen=True, eq=False)
class Results:
    """All variants of one ground."""

    none: Result
    fitted: Sequence[Result]
    clusters: Ints
    """(n,)."""
    control_clusters: Ints | None
    elsewhere: Bools | None
    """(n,) whether a further model gives the window away and the audited one does not."""
    resamples: Resamples

    def of(self, name: str, virtual: int | None) -> list[Result]:
        """Every seed of a variant; of every V, seed 0 alone, where none is named."""
        named = [one for one in self.fitted if one.name == name]
        if virtual is None:
            return [one for one in named if one.seed == 0]
        return [one for one in named if one.virtual_tokens == virtual]

    def change(self, first: Sequence[Result], second: Sequence[Result]) -> Estimate:
        """Exact rate of the first less the second, each the mean over its seeds, paired."""
        return self.resamples.change(_mean_hits(first), _mean_hits(second), self.clusters)

    def p_value(self, first: Sequence[Result], second: Sequence[Result]) -> float:
        """Sign-flip test over clusters; of single seeds the larger of it and McNemar's."""
        counts = [np.sum([one.exact for one in side], axis=0) for side in (first, second)]
        lengths = (len(second), len(first))  # of unequally many seeds the sums are made alike
        a, b = (count * length for count, length in zip(counts, lengths, strict=True))
        found = paired_clustered(a, b, self.clusters, self.resamples.number, self.resamples.rng())
        if len(first) == len(second) == 1:
            return max(found, paired_exact(first[0].exact, second[0].exact).p_value)
        return found


def stability(seeds: Sequence[Result]) -> Estimate:
    """Mean exact rate of the seeds, and the lowest and highest of them."""
    return spread([float(one.exact.mean()) for one in seeds])


def spread(values: Sequence[float]) -> Estimate:
    """Mean, lowest and highest; no ends where there is one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, None, None)
    return Estimate.of(mean, Interval(min(values), max(values)))


def _mean_hits(seeds: Sequence[Result]) -> Floats:
    return np.asarray(np.mean([one.exact for one in seeds], axis=0), dtype=np.float64)


def _least(record: FitRecord) -> float:
    return min(epoch.select_nll for epoch in record.epochs)


def _converged(record: FitRecord) -> int:
    limit = CLOSE * _least(record)
    return next(epoch.epoch for epoch in record.epochs if epoch.select_nll <= limit)
