"""Scores of each sample, from those of its windows.

Knows window scores and which windows make up a sample. Knows nothing of tokens, template or
attacks. N stands for windows, M for samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from memaudit.score.scores import WindowScores
from memaudit.score.stats import Bools, Floats, Ints

if TYPE_CHECKING:
    from memaudit.data.corpus import Corpus


@dataclass(frozen=True, eq=False)
class Grouping:
    """Membership of N windows in M samples."""

    sample: Ints
    """(N,) number of each window's sample, 0..M-1, in order."""
    new_tokens: Ints
    """(N,) suffix tokens that are in no earlier window of the sample."""
    is_own: Bools
    """(N,) windows that are not template alone."""
    clusters: Ints
    """(M,) near-duplicate cluster of each sample."""

    @classmethod
    def one_each(cls, clusters: Ints) -> Grouping:
        """Return the grouping of samples with one window each, in clusters (N,)."""
        n = len(clusters)
        ones = np.ones(n, dtype=np.int64)
        return cls(np.arange(n), ones, ones.astype(np.bool_), clusters)

    @cached_property
    def counted(self) -> Bools:
        """(M,) samples that have a window of their own: those that can be extracted."""
        return _sums(self.is_own, self.sample) > 0


def group_windows(corpus: Corpus) -> Grouping:
    """Return which windows make up each sample of a corpus."""
    return Grouping(
        sample=corpus.sample,
        new_tokens=corpus.windows.new_tokens,
        is_own=corpus.is_own,
        clusters=corpus.sample_clusters,
    )


@dataclass(frozen=True, eq=False)
class SampleScores:
    """Scores of one attack on each of M samples. All arrays are (M,)."""

    extracted: Bools
    """True if a window that is not template alone is exact. False if the sample has none."""
    exact: Bools
    """True if all windows are exact: every audited token comes out."""
    windows_exact: Ints
    """Windows that are exact, template alone or not."""
    fractional: Floats
    """Mean of the windows', weighted by their new tokens, fraction in [0,1]."""
    longest_run: Ints
    """Largest of the windows', tokens."""
    suffix_nll: Floats
    """Mean of the windows', weighted by their new tokens, nats/token; NaN without a model."""

    def take(self, index: npt.NDArray[np.generic]) -> SampleScores:
        """Return the samples at ``index``: integers, or a mask (M,)."""
        return SampleScores(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True, eq=False)
class Arm:
    """One attack's scores on the samples of the data, or of the controls, that can be extracted."""

    scores: SampleScores
    clusters: Ints
    """(M,) number of each sample's near-duplicate cluster."""

    @classmethod
    def of(cls, scores: WindowScores, grouping: Grouping) -> Arm:
        """Return the arm of N windows, without samples that are template alone."""
        return cls.counted(score_samples(scores, grouping), grouping)

    @classmethod
    def counted(cls, samples: SampleScores, grouping: Grouping) -> Arm:
        """Return the arm of M samples, without those that are template alone."""
        return cls(samples.take(grouping.counted), grouping.clusters[grouping.counted])


def best_of(attacks: Sequence[SampleScores]) -> SampleScores:
    """Return the best of each score that attacks get from the same M samples."""
    columns = {
        f.name: [getattr(scores, f.name) for scores in attacks] for f in fields(SampleScores)
    }
    least = np.fmin.reduce(columns.pop("suffix_nll"))
    best = {name: np.maximum.reduce(values) for name, values in columns.items()}
    return SampleScores(**best, suffix_nll=least)


def score_samples(scores: WindowScores, grouping: Grouping) -> SampleScores:
    """Score M samples from their N windows."""
    sample, tokens = grouping.sample, grouping.new_tokens
    windows, exact = np.bincount(sample), _sums(scores.exact, sample)
    weights = tokens / _sums(tokens, sample)[sample]
    longest = np.zeros(len(windows), dtype=np.int64)
    np.maximum.at(longest, sample, scores.longest_run)
    return SampleScores(
        extracted=_sums(scores.exact & grouping.is_own, sample) > 0,
        exact=exact == windows,
        windows_exact=exact.astype(np.int64),
        fractional=_sums(scores.fractional * weights, sample),
        longest_run=longest,
        suffix_nll=_sums(scores.suffix_nll * weights, sample),
    )


def _sums(values: npt.NDArray[np.generic], sample: Ints) -> Floats:
    """Return the sum of the values (N,) over each sample's windows: (M,)."""
    return np.asarray(np.bincount(sample, weights=values), dtype=np.float64)
