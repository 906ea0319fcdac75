"""Windows that a sweep asks a model about, and the model's scores of them.

Knows windows, models, ids and teacher-forced passes. Nothing here varies a run's settings.
Extracted windows are rare, so windows are sampled by kind and weighted by the size of their kind.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.extraction import NEAR_TIE
from memaudit.attack.journal import Advance
from memaudit.attack.verification import verify_logits
from memaudit.config.settings import ScoreSettings
from memaudit.diagnose.passes import Pass, Passes
from memaudit.diagnose.subject import Part, draw
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples, shared
from memaudit.score.stats import (
    Bools,
    Floats,
    Interval,
    Ints,
    clopper_pearson,
    paired_clustered,
    paired_exact,
)
from memaudit.target.checkpoint import Checkpoint

_SMALLEST_STRATIFIED = 30
"""Windows below which a sample is not stratified: each kind would have too few. It counts windows,
not clusters, so no threshold of `score.resample` applies."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """Sample of n of N windows of one role; the rarer kinds are oversampled."""

    rows: Ints
    """(n,) positions among the N windows, ascending."""
    clusters: Ints
    """(n,)."""
    kinds: Ints
    """(n,) kind of each window, 0 to K-1."""
    sizes: Ints
    """(K,) windows of each kind among the N; the sample has one of each at least."""
    weights: Floats = field(init=False)
    """(n,) number of the N windows that each sampled window represents."""

    def __post_init__(self) -> None:
        counts = np.bincount(self.kinds, minlength=len(self.sizes))
        object.__setattr__(self, "weights", (self.sizes / counts)[self.kinds])

    @property
    def is_all(self) -> bool:
        """True if the sample holds every window."""
        return len(self.rows) == int(self.sizes.sum())

    def rate(self, hits: Bools, resamples: Resamples) -> Estimate:
        """Estimate the share of the N windows from the sample's hits (n,).

        The interval takes the outer ends of two: the cluster bootstrap of the weighted share, and
        the exact bounds of the kinds (Bonferroni), weighted by their sizes.
        """
        if self.is_all:
            return resamples.rate(hits, self.clusters)
        if not resamples.admits(self.clusters):
            return Estimate(None)
        each = shared(resamples.confidence, len(self.sizes))
        bounds = [
            clopper_pearson(
                int(hits[self.kinds == kind].sum()), int((self.kinds == kind).sum()), each
            )
            for kind in range(len(self.sizes))
        ]
        shares = self.sizes / self.sizes.sum()
        exact = Interval(*(float(shares @ end) for end in np.array(bounds).T))
        value = float(np.average(hits, weights=self.weights))
        clustered = resamples.clustered(hits, self.clusters, self.weights)
        return Estimate.of(value, exact).wider(clustered)

    def change(self, hits: Bools, before: Bools, resamples: Resamples) -> Estimate:
        """Estimate the change of share among the N windows from paired hits (n,)."""
        values = (hits.astype(np.float64), before.astype(np.float64))
        return resamples.change(*values, self.clusters, self.weights)

    def p_value(self, hits: Bools, before: Bools, resamples: Resamples) -> float | None:
        """Return the change's p-value: the larger of McNemar's and a sign-flip test's.

        None for a sample: it was stratified by the hits before, which biases both tests.
        """
        if not self.is_all:
            return None
        exact = paired_exact(hits, before).p_value
        flipped = paired_clustered(hits, before, self.clusters, resamples.number, resamples.rng())
        return max(exact, flipped)

    def mean(self, values: Floats, resamples: Resamples) -> Estimate:
        """Estimate the mean over the N windows from the sample's values (n,)."""
        return resamples.mean(values, self.clusters, self.weights)


def sample_windows(part: Part, limit: int, rng: np.random.Generator) -> Sampled:
    """Sample at most ``limit`` windows, stratified by kind.

    Windows that ``none`` extracts and windows that only another attack extracts get a third each,
    if there are so many; the rest are windows that no attack extracts.
    """
    # Extracted by none, by another attack only, by no attack.
    kinds = np.where(part.extracted, 0, np.where(part.hidden, 1, 2))
    if len(part) <= limit or limit < _SMALLEST_STRATIFIED:
        kinds = np.zeros(len(part), dtype=np.int64)
    present, kinds, sizes = np.unique(kinds, return_inverse=True, return_counts=True)
    counts = _counts(present, sizes, limit)
    rows = np.sort(
        np.concatenate([draw(kinds == kind, counts[kind], rng) for kind in range(len(present))])
    )
    return Sampled(rows, part.clusters[rows], kinds[rows], sizes)


def _counts(present: Ints, sizes: Ints, limit: int) -> list[int]:
    """Return the number of windows to sample of each kind present (K,)."""
    counts = np.where(present == 2, 0, np.minimum(sizes, limit // 3))
    if len(present) == 1:
        counts[:] = 0
    for kind in range(len(present))[::-1]:
        counts[kind] += min(limit - counts.sum(), sizes[kind] - counts[kind])
    return [int(count) for count in counts]


def describe_sample(sampled: Sampled, role: str) -> str:
    """Return ``all 1,305 controls`` or ``1,000 of 5,938 windows``."""
    total = int(sampled.sizes.sum())
    if sampled.is_all:
        return f"all {total:,} {role}"
    return f"{len(sampled.rows):,} of {total:,} {role}"


@dataclass(frozen=True, eq=False)
class PassScores:
    """Scores of n windows from one pass."""

    matched: Ints
    """(n,) suffix tokens before the first mismatch of greedy decoding, 0..S."""
    nll: Floats
    """(n,) suffix NLL, nats/token."""
    suffix_tokens: int
    """S."""

    @property
    def exact(self) -> Bools:
        """(n,) True where the whole suffix matches."""
        return np.asarray(self.matched == self.suffix_tokens)

    def replaced(self, rows: Ints, part: PassScores) -> PassScores:
        """Return the scores with those of these rows replaced by ``part``."""
        matched, nll = self.matched.copy(), self.nll.copy()
        matched[rows], nll[rows] = part.matched, part.nll
        return replace(self, matched=matched, nll=nll)


@dataclass(frozen=True)
class Asker:
    """Teacher-forced passes with the same settings for every model."""

    scores: ScoreSettings
    suffix_tokens: int
    batch_size: int

    def ask(
        self,
        checkpoint: Checkpoint,
        ids: NDArray[np.int32],
        prefix_tokens: int,
        advance: Advance = lambda done: None,
    ) -> PassScores:
        """Score windows (n,P+S) from the last ``prefix_tokens`` of their prefix, or all of it.

        A window with a near-tie is scored again in a pass of its own, as in extraction, so that
        no verdict depends on the batch.
        """
        tokens = np.ascontiguousarray(ids[:, ids.shape[1] - self.suffix_tokens - prefix_tokens :])
        near_tie = NEAR_TIE[checkpoint.precision]

        def read(batch: Pass) -> dict[str, Tensor]:
            verdict = verify_logits(batch.logits, batch.tokens, self.scores, near_tie)
            return {"matched": verdict.matched, "nll": verdict.nll, "undecided": verdict.undecided}

        values = Passes(checkpoint, prefix_tokens, self.batch_size).read(tokens, read, advance)
        undecided = np.flatnonzero(values["undecided"])
        if len(undecided) and self.batch_size > 1:
            single = Passes(checkpoint, prefix_tokens, 1).read(tokens[undecided], read)
            values["matched"][undecided] = single["matched"]
        return PassScores(values["matched"].astype(np.int64), values["nll"], self.suffix_tokens)
