"""Template: text that stands in many records, such as a system message, greeting or footer.

Knows token ids and sample numbers. Must not know text, folds, models or prompts. Records that share
nothing but their template are no near-duplicates of each other, and extracting template shows no
record.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memaudit.data.run_hashes import run_hashes
from memaudit.data.windows import PADDING, Windows

RUN = 6
"""Tokens of the shortest run that is searched for. Shorter ones stand in many texts by chance:
three bytes are one letter of many scripts."""
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
    run: int
    """Tokens of each run."""

    def mask(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which tokens of ids (N,T) are template: (N,T)."""
        masked = np.zeros(ids.shape, dtype=np.bool_)
        if not len(self.hashes) or ids.shape[1] < self.run:
            return masked
        for first in range(0, len(ids), _ROWS):
            hashes = run_hashes(ids[first : first + _ROWS], self.run)
            place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
            rows, starts = np.nonzero(self.hashes[place] == hashes)
            for offset in range(self.run):
                masked[first + rows, starts + offset] = True
        return masked


NO_TEMPLATE = Template(np.empty(0, np.uint64), RUN)


def find_template(parts: Sequence[Windows], cluster_run: int) -> Template:
    """Find the runs that many samples of all parts hold.

    cluster_run: length of a run that makes near-duplicates; template runs are no longer.
    """
    run = min(RUN, cluster_run, parts[0].window_tokens)
    examined = [_examine(part, math.ceil(_EXAMINED / len(parts))) for part in parts]
    ids = np.concatenate([rows for rows, _ in examined])
    ends = np.cumsum([0, *(int(samples.max()) + 1 for _, samples in examined)])
    samples = np.concatenate(
        [samples + end for (_, samples), end in zip(examined, ends, strict=False)]
    )
    hashes = run_hashes(ids, run)
    is_text = ids[:, : hashes.shape[1]] != PADDING
    owners = np.broadcast_to(samples[:, None], hashes.shape)[is_text]
    hashes = hashes[is_text]
    order = np.argsort(hashes, kind="stable")  # the samples of each hash stay in order
    hashes, owners = hashes[order], owners[order]
    is_new = np.ones(len(hashes), dtype=np.bool_)
    is_new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    runs, counts = np.unique(hashes[is_new], return_counts=True)
    enough = max(MIN_SAMPLES, MIN_SHARE * len(np.unique(samples)))
    return Template(runs[counts >= enough], run)


@dataclass(frozen=True, eq=False)
class TemplateTokens:
    """Tokens of N windows' suffixes that are template, or that repeat the window's prefix."""

    suffix: NDArray[np.int64]
    """(N,) among all suffix tokens."""
    new: NDArray[np.int64]
    """(N,) among the new ones (``Windows.new_tokens``)."""
    in_window: NDArray[np.bool_]
    """(N,) True if the window holds template anywhere, also in its prefix."""

    def take(self, mask: NDArray[np.bool_]) -> TemplateTokens:
        """Return those of the windows in the mask (N,)."""
        return TemplateTokens(self.suffix[mask], self.new[mask], self.in_window[mask])


def count_template(windows: Windows, template: Template) -> TemplateTokens:
    """Count the suffix tokens that show nothing about a record.

    The tokens between template count too if they stand in the same order in the window's prefix: a
    greeting with the name that the user gave is copied, not remembered.
    """
    count, prefix = len(windows), windows.longest_prefix
    suffix, new = np.zeros((2, count), dtype=np.int64)
    in_window = np.zeros(count, dtype=np.bool_)
    for first in range(0, count, _ROWS):
        block = slice(first, first + _ROWS)
        ids = windows.ids[block]
        whole = template.mask(ids)
        in_window[block], masked = whole.any(axis=1), whole[:, prefix:]
        _add_repeats(masked, ids)
        is_new = np.arange(masked.shape[1]) >= masked.shape[1] - windows.new_tokens[block, None]
        suffix[block], new[block] = masked.sum(axis=1), (masked & is_new).sum(axis=1)
    return TemplateTokens(suffix, new, in_window)


def _add_repeats(masked: NDArray[np.bool_], ids: NDArray[np.int32]) -> None:
    """Add to the template of suffixes (n,S) each run between it that stands in the prefix too.

    ids: (n,P+S).
    """
    prefix = ids.shape[1] - masked.shape[1]
    rows, edges = np.nonzero(np.diff(masked, axis=1, prepend=True, append=True))
    gaps = zip(rows[::2].tolist(), edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    for row, start, end in gaps:
        whole = ids[row].tobytes()
        run = whole[4 * (prefix + start) : 4 * (prefix + end)]
        masked[row, start:end] = _holds(whole, run, 4 * prefix)


def _holds(ids: bytes, run: bytes, end: int) -> bool:
    """Return True if ids of 32 bits hold a run of such ids, before byte ``end``."""
    place = ids.find(run, 0, end)
    while place % 4 and place >= 0:
        place = ids.find(run, place + 1, end)
    return place >= 0


def _examine(part: Windows, count: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the ids (n,T) of evenly spaced, different samples, and their sample numbers (n,).

    The windows of a sample are in one piece, and the numbers ascend.
    """
    numbers, first = np.unique(part.sample, return_index=True)
    chosen = _evenly(len(numbers), count)
    _, distinct = np.unique(part.ids[first[chosen]], axis=0, return_index=True)
    rows = np.flatnonzero(np.isin(part.sample, numbers[chosen[distinct]]))
    rows = rows[_evenly(len(rows), _MAX_ROWS)]
    rows = rows[np.argsort(part.sample[rows], kind="stable")]
    return part.ids[rows], part.sample[rows]


def _evenly(length: int, count: int) -> NDArray[np.int64]:
    """Return up to ``count`` evenly spaced places in a row of ``length``."""
    return np.unique(np.linspace(0, length - 1, min(length, count)).round().astype(np.int64))
