"""Scores of each window.

Knows token ids and log-probabilities as arrays. Knows nothing of samples, attacks or thresholds.
N stands for windows, S for suffix tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist

from memaudit.score.stats import Bools, Floats, Ints

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
