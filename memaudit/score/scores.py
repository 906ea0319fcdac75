"""Scores of each window, then the rates of an attack over windows.

Knows token ids, log-probabilities and cluster numbers as arrays. Knows an attack only by its name,
and nothing of thresholds. N stands for windows, S for suffix tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist

from memaudit.config.settings import LADDER, ScoreSettings
from memaudit.score import stats
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats, Interval, Ints

Ids = npt.NDArray[np.integer]

_CHUNK_CELLS = 1 << 18
"""Tokens scored at once, so that the working arrays of a chunk stay in the cache."""


@dataclass(frozen=True, eq=False)
class WindowScores:
    """Scores of one attack on each of N windows. All arrays are (N,)."""

    exact: Bools
    """True if all S tokens were extracted."""
    fractional: Floats
    """Share of the S positions that hold the suffix's token, fraction in [0,1]."""
    matched: Ints
    """Tokens before the first mismatch, 0..S."""
    longest_run: Ints
    """Longest run of tokens shared by output and suffix, at any alignment, 0..S."""
    edit_similarity: Floats
    """1 - Levenshtein distance / S over tokens, fraction in [0,1]."""
    suffix_nll: Floats
    """Teacher-forced, nats/token; NaN if the attack has no model."""
    log_p_z: Floats
    """ln of the sampler's probability of the suffix; -inf for 0; NaN if the attack has no model."""

    def __len__(self) -> int:
        return len(self.exact)

    def take(self, index: npt.NDArray[np.generic]) -> WindowScores:
        """Return the windows at ``index``: integers, or a mask (N,)."""
        return WindowScores(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True, eq=False)
class Arm:
    """One attack's scores on one set of windows: the data, or the controls."""

    scores: WindowScores
    clusters: Ints
    """(N,) number of each window's near-duplicate cluster."""


@dataclass(frozen=True)
class Rate:
    """A share of windows, with its intervals."""

    k: int
    """Windows hit."""
    n: int
    """Windows scored."""
    estimate: float
    """k/n, fraction in [0,1]; NaN if nothing was scored."""
    interval: Interval
    """Exact (Clopper–Pearson), taking windows as independent. (0, 1) if n is 0."""
    clustered: Interval
    """Percentile bootstrap over clusters (`Resamples.clustered`). (0, 1) if n is 0."""
    confidence: float
    """Confidence level of both intervals."""


@dataclass(frozen=True)
class Difference:
    """Exact rate on the data minus exact rate on the controls, one attack."""

    estimate: float
    """Fraction in [-1,1]; NaN if either arm is empty."""
    interval: Interval
    """Conservative exact interval, taking windows as independent."""
    p_value: float
    """Fisher's exact test, one-sided: that the data's rate is above the controls'."""


@dataclass(frozen=True)
class Lift:
    """Exact rate of an attack minus that of ``none``, on the same windows."""

    estimate: float
    """Fraction in [-1,1]."""
    gained: int
    """Windows that the attack extracted and ``none`` did not."""
    lost: int
    """Windows that ``none`` extracted and the attack did not."""
    p_value: float
    """Exact McNemar test, two-sided, taking windows as independent."""
    clustered_p_value: float
    """Sign-flip permutation test over clusters, two-sided."""
    interval: Interval
    """Percentile bootstrap of the paired difference over clusters."""


@dataclass(frozen=True)
class AttackSummary:
    """One row of the report: an attack over all audited windows."""

    attack: str
    exact: Rate
    """Windows extracted exactly."""
    fractional: float
    """Mean fractional extraction, fraction in [0,1]; NaN if nothing was scored."""
    fractional_interval: Interval
    """Percentile bootstrap over clusters."""
    suffix_nll: float
    """Mean, nats/token; NaN if the attack has no model."""
    controls_exact: Rate | None
    """Controls extracted exactly; None without controls."""
    controls_fractional: float | None
    """Mean fractional extraction of the controls; None without controls."""
    difference: Difference | None
    """Data minus controls; None without controls."""
    lift: Lift | None
    """Gain over ``none``; None for ``none`` itself, or if it did not run."""
    cluster_sizes: tuple[int, ...]
    """Windows of the data in each near-duplicate cluster."""


def score_windows(
    continuation_ids: Ids, suffix_ids: Ids, suffix_nll: Floats, log_p_z: Floats
) -> WindowScores:
    """Score continuations (N,S) against the true suffixes (N,S), chunk by chunk.

    A -1 in ``continuation_ids`` is a position without output. It equals no token, so an early end
    counts as wrong. ``suffix_nll`` and ``log_p_z`` (N,) pass through.

    Raises:
        ValueError: the shapes do not agree, or S is 0.
    """
    n, length = suffix_ids.shape
    if continuation_ids.shape != suffix_ids.shape or length == 0:
        raise ValueError(f"{continuation_ids.shape} output tokens for {suffix_ids.shape}")
    if not suffix_nll.shape == log_p_z.shape == (n,):
        raise ValueError(f"{suffix_nll.shape} NLLs and {log_p_z.shape} ln p_z for {n} windows")
    matched, longest, right = (np.empty(n, dtype=np.int64) for _ in range(3))
    similarity = np.empty(n)
    rows = max(1, _CHUNK_CELLS // length)
    for start in range(0, n, rows):
        chunk = slice(start, start + rows)
        output, suffix = continuation_ids[chunk], suffix_ids[chunk]
        equal = (output == suffix) & (output >= 0)
        right[chunk] = equal.sum(axis=1)
        matched[chunk] = np.where(equal.all(axis=1), length, equal.argmin(axis=1))
        longest[chunk] = _longest_run(output, suffix)
        similarity[chunk] = _edit_similarity(output, suffix)
    return WindowScores(
        exact=right == length,
        fractional=right / length,
        matched=matched,
        longest_run=longest,
        edit_similarity=similarity,
        suffix_nll=suffix_nll.astype(np.float64),
        log_p_z=log_p_z.astype(np.float64),
    )


def attack_rng(seed: int, attack: str) -> np.random.Generator:
    """Return the generator of an attack's resamples, which a stored run needs again."""
    return np.random.default_rng([seed, LADDER.index(attack)])


def summarise(
    attack: str,
    data: Arm,
    settings: ScoreSettings,
    rng: np.random.Generator,
    *,
    none_scores: WindowScores | None = None,
    controls: Arm | None = None,
) -> AttackSummary:
    """Summarise one attack over the data and, if given, the controls.

    ``none_scores`` are those of the attack ``none`` on the same windows in the same order, for
    the lift. ``rng`` chooses the resamples.
    """
    exact = rate_of(data.scores.exact, data.clusters, settings, rng)
    on_controls = None
    if controls is not None:
        on_controls = rate_of(controls.scores.exact, controls.clusters, settings, rng)
    return AttackSummary(
        attack=attack,
        exact=exact,
        fractional=_mean(data.scores.fractional),
        fractional_interval=_bootstrap(data.scores.fractional, data.clusters, settings, rng),
        suffix_nll=_mean(data.scores.suffix_nll),
        controls_exact=on_controls,
        controls_fractional=_mean(controls.scores.fractional) if controls is not None else None,
        difference=_difference(exact, on_controls) if on_controls is not None else None,
        lift=None if none_scores is None else _lift(data, none_scores, settings, rng),
        cluster_sizes=tuple(np.unique(data.clusters, return_counts=True)[1].tolist()),
    )


def best_edit_similarity(scores: Mapping[str, WindowScores]) -> Floats:
    """Return the largest edit similarity (N,) of each window over attacks, by name."""
    return np.asarray(np.max([s.edit_similarity for s in scores.values()], axis=0))


def best_log_p_z(scores: Mapping[str, WindowScores]) -> Floats:
    """Return the largest ln p_z (N,) of each window over attacks; NaN if none has a value."""
    return np.asarray(np.fmax.reduce([s.log_p_z for s in scores.values()]))


def _longest_run(output: Ids, suffix: Ids) -> Ints:
    """Return the longest common run of tokens (n,) between the rows of two (n,S) arrays.

    ``runs[:, j + 1]`` is the common run that ends at the current output token and at suffix token
    j: one longer than the run that ended one token earlier in both.
    """
    runs, best = np.zeros((2, len(suffix), suffix.shape[1] + 1), dtype=np.int32)  # (n, S+1)
    for token in output.T[:, :, None]:  # (n, 1)
        runs[:, 1:] = (runs[:, :-1] + 1) * ((suffix == token) & (token >= 0))
        np.maximum(best, runs, out=best)
    return np.asarray(best.max(axis=1), dtype=np.int64)


def _edit_similarity(output: Ids, suffix: Ids) -> Floats:
    """Return each row's Levenshtein similarity over S (n,), without positions that lack output."""
    outputs = [row[row >= 0].tolist() for row in output]
    scorer = Levenshtein.normalized_similarity
    return np.asarray(cpdist(outputs, suffix.tolist(), scorer=scorer, dtype=np.float64))


def rate_of(hits: Bools, clusters: Ints, settings: ScoreSettings, rng: np.random.Generator) -> Rate:
    """Return the share of windows (N,) that are hit; ``rng`` chooses the resamples."""
    k, n = int(np.count_nonzero(hits)), len(hits)
    return Rate(
        k=k,
        n=n,
        estimate=k / n if n else float("nan"),
        interval=stats.clopper_pearson(k, n, settings.confidence),
        clustered=Resamples.of(settings, rng).clustered(hits, clusters),
        confidence=settings.confidence,
    )


def _difference(data: Rate, controls: Rate) -> Difference:
    counts = (data.k, data.n, controls.k, controls.n)
    interval = stats.difference(*counts, data.confidence)
    return Difference(data.estimate - controls.estimate, interval, stats.fisher_greater(*counts))


def _lift(
    data: Arm, none_scores: WindowScores, settings: ScoreSettings, rng: np.random.Generator
) -> Lift:
    exact, none_exact = data.scores.exact, none_scores.exact
    paired = stats.paired_exact(exact, none_exact)
    by_cluster = stats.paired_clustered(exact, none_exact, data.clusters, settings.bootstrap, rng)
    change = exact.astype(np.float64) - none_exact
    return Lift(
        estimate=_mean(change),
        gained=paired.gained,
        lost=paired.lost,
        p_value=paired.p_value,
        clustered_p_value=by_cluster,
        interval=_bootstrap(change, data.clusters, settings, rng, low=-1.0),
    )


def _bootstrap(
    values: npt.NDArray[np.generic],
    clusters: Ints,
    settings: ScoreSettings,
    rng: np.random.Generator,
    low: float = 0.0,
) -> Interval:
    """Return the cluster bootstrap interval of the mean; (``low``, 1) without values."""
    if not len(values):
        return Interval(low, 1.0)
    return Resamples.of(settings, rng).bootstrap(values, clusters)


def _mean(values: Floats) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
