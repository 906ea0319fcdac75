"""Template: text that stands in many records, such as a system message, greeting or footer.

Knows token ids, their letters and sample numbers. Must not know text, folds, models or prompts.
Records that share nothing but their template are no near-duplicates of each other, and extracting
template shows no record.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memaudit.data.letters import running_letters
from memaudit.data.run_hashes import hash_runs
from memaudit.data.windows import Windows

LEAST_LETTERS, LEAST_TOKENS = 12, 3
"""Letters and tokens of the shortest run that is searched for, about three words. Fewer stand in
many texts by chance. Tokens alone would not do: three may be three words, or one letter."""
MIN_SAMPLES, MIN_SHARE = 10, 0.1
"""Samples, and share of all samples, that have to hold a run. Equal samples count once. A cluster
of fewer samples leaves enough others for the folds."""
_EXAMINED = 2000
"""Samples, evenly spaced, in which template is searched for: what a tenth of all samples hold, a
tenth of these do."""
_MAX_ROWS = 20_000
"""Windows that are examined; some samples have thousands."""
_ROWS = 4096  # windows hashed at a time


@dataclass(frozen=True, eq=False)
class Template:
    """Runs of tokens that stand in many records."""

    hashes: NDArray[np.uint64]
    """Sorted hashes of the runs."""
    longest: int
    """Tokens after which a run ends, whatever its letters."""

    def mask(self, ids: NDArray[np.int32], letters: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which tokens of ids (N,T) are template: (N,T). letters: (V,) of each id."""
        covers = np.zeros((len(ids), ids.shape[1] + 1), dtype=np.int16)
        for first in range(0, len(ids) if len(self.hashes) else 0, _ROWS):
            block = ids[first : first + _ROWS]
            starts, ends = _find_runs(block, letters, self.longest)
            hashes = hash_runs(block, starts, ends)
            place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
            at, runs = np.nonzero((self.hashes[place] == hashes) & (ends > starts))
            np.add.at(covers, (first + at, starts[at, runs]), 1)
            np.subtract.at(covers, (first + at, ends[at, runs]), 1)
        return np.cumsum(covers[:, :-1], axis=1) > 0


NO_TEMPLATE = Template(np.empty(0, np.uint64), LEAST_TOKENS)


def find_template(parts: Sequence[Windows], cluster_run: int) -> Template:
    """Find the runs that many samples of all parts hold.

    cluster_run: length of a run that makes near-duplicates; template runs are no longer.
    """
    longest = min(cluster_run, parts[0].window_tokens)
    each: list[NDArray[np.uint64]] = []
    samples = 0
    for part in parts:
        runs, examined = _runs_of_samples(part, math.ceil(_EXAMINED / len(parts)), longest)
        each.append(runs)
        samples += examined
    runs, counts = np.unique(np.concatenate(each), return_counts=True)
    return Template(runs[counts >= max(MIN_SAMPLES, MIN_SHARE * samples)], longest)


def _runs_of_samples(part: Windows, count: int, longest: int) -> tuple[NDArray[np.uint64], int]:
    """Return the hashes of each sample's runs, each once for a sample, and how many samples these
    are: evenly spaced, different ones.

    The windows of a sample are in one piece, and the numbers ascend.
    """
    numbers, first = np.unique(part.sample, return_index=True)
    chosen = _evenly(len(numbers), count)
    _, distinct = np.unique(part.ids[first[chosen]], axis=0, return_index=True)
    rows = np.flatnonzero(np.isin(part.sample, numbers[chosen[distinct]]))
    rows = rows[_evenly(len(rows), _MAX_ROWS)]
    rows = rows[np.argsort(part.sample[rows], kind="stable")]
    follows = (np.diff(rows, prepend=-2) == 1) & (np.diff(part.sample[rows], prepend=-1) == 0)
    each: list[NDArray[np.uint64]] = []
    holders: list[NDArray[np.int64]] = []
    # Of a window that follows another, only runs that end in its suffix are new.
    for some, known in ((rows[~follows], 0), (rows[follows], part.longest_prefix - longest)):
        ids = part.ids[some, max(0, known) :]
        starts, ends = _find_runs(ids, part.letters, longest)
        each.append(hash_runs(ids, starts, ends)[ends > starts])
        holders.append(np.broadcast_to(part.sample[some, None], ends.shape)[ends > starts])
    hashes, owners = np.concatenate(each), np.concatenate(holders)
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order]
    is_new = np.ones(len(hashes), dtype=np.bool_)
    is_new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    return hashes[is_new], len(np.unique(part.sample[rows]))


def _find_runs(
    ids: NDArray[np.int32], letters: NDArray[np.float32], longest: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return start and end of the shortest runs that begin or end with each of the tokens (n,T).

    Both are (n,2T), and equal where there is no run. A run has LEAST_TOKENS and LEAST_LETTERS, or
    is ``longest``; so every token of a longer piece is in a run of that piece. None holds padding.
    """
    rows, tokens = ids.shape
    sums = running_letters(ids, letters)
    starts = np.tile(np.arange(tokens), (rows, 2))
    ends = starts.copy()
    from_each, to_each = ends[:, :tokens], starts[:, tokens:]
    to_each += 1
    ends[:, tokens:] += 1
    for length in range(longest, min(LEAST_TOKENS, longest) - 1, -1):
        count = tokens - length + 1
        enough = sums[:, length:] - sums[:, :count] >= LEAST_LETTERS
        enough |= length == longest
        enough &= ids[:, :count] >= 0
        np.copyto(from_each[:, :count], np.arange(length, tokens + 1), where=enough)
        np.copyto(to_each[:, length - 1 :], np.arange(count), where=enough)
    return starts, ends


def _evenly(length: int, count: int) -> NDArray[np.int64]:
    """Return up to ``count`` evenly spaced places in a row of ``length``."""
    return np.unique(np.linspace(0, length - 1, min(length, count)).round().astype(np.int64))
