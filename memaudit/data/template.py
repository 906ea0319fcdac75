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
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from memaudit.data.run_hashes import run_hashes
from memaudit.data.windows import PADDING, Windows

RUN = 6
"""Tokens of the shortest run that is searched for. Shorter ones stand in many texts by chance."""
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
    is_text = sliding_window_view(ids != PADDING, run, axis=1).all(axis=2)
    owners = np.broadcast_to(samples[:, None], hashes.shape)
    pairs = np.stack([hashes[is_text], owners[is_text].astype(np.uint64)], axis=1)
    runs, counts = np.unique(np.unique(pairs, axis=0)[:, 0], return_counts=True)
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


def count_template(windows: Windows, template: Template) -> TemplateTokens:
    """Count the suffix tokens that show nothing about a record.

    The tokens between template count too if they stand in the same order in the window's prefix: a
    greeting with the name that the user gave is copied, not remembered.
    """
    prefix = windows.prefix_ids.shape[1]
    whole = template.mask(windows.window_ids())
    in_window, masked = np.asarray(whole.any(axis=1)), whole[:, prefix:]
    for row, is_template in enumerate(masked):
        before, suffix = windows.prefix_ids[row].tobytes(), windows.suffix_ids[row]
        edges = np.flatnonzero(np.diff(is_template, prepend=True, append=True)).tolist()
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            is_template[start:end] = _holds(before, suffix[start:end].tobytes())
    is_new = np.arange(masked.shape[1]) >= masked.shape[1] - windows.new_tokens[:, None]
    return TemplateTokens(masked.sum(axis=1), (masked & is_new).sum(axis=1), in_window)


def _holds(ids: bytes, run: bytes) -> bool:
    """Return True if ids of 32 bits hold a run of such ids."""
    place = ids.find(run)
    while place % 4 and place >= 0:
        place = ids.find(run, place + 1)
    return place >= 0


def _examine(part: Windows, count: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the ids (n,T) of evenly spaced, different samples, and their sample numbers (n,)."""
    numbers, first = np.unique(part.sample, return_index=True)
    chosen = _evenly(len(numbers), count)
    ids = part.window_ids()
    _, distinct = np.unique(ids[first[chosen]], axis=0, return_index=True)
    rows = np.flatnonzero(np.isin(part.sample, numbers[chosen[distinct]]))
    rows = rows[_evenly(len(rows), _MAX_ROWS)]
    return ids[rows], part.sample[rows]


def _evenly(length: int, count: int) -> NDArray[np.int64]:
    """Return up to ``count`` evenly spaced places in a row of ``length``."""
    return np.unique(np.linspace(0, length - 1, min(length, count)).round().astype(np.int64))
