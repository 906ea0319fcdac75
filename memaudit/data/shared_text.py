"""Text that most windows share, such as a system message, and ways to separate the windows again.

Knows token ids and clusters. Must not know text, folds, models or prompts. A run of tokens in
nearly every window puts them all into one cluster, and more data of that kind changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memaudit.data.clusters import find_clusters, run_hashes
from memaudit.data.windows import Windows

SHARE = 0.8
"""Share of a cluster's windows that have to hold a run for it to be shared text."""
_LARGE = 0.1
"""Share of the windows that makes a cluster large enough to be examined."""
_MOST_RUNS = 8
"""Runs that are searched for: a preamble and a footer, of each kind of record."""
_ENOUGH = 0.95
"""Share of the clusters without the shared text that a remedy has to reach."""


@dataclass(frozen=True)
class SharedText:
    """Text shared by most windows of a large cluster, without which they are no near-duplicates."""

    windows: int
    """Windows that hold some of it."""
    tokens: int
    """Tokens of the longest run."""
    end: int
    """Furthest place in a window right after such a run, 1..P+S."""
    cluster_run: int | None
    """Tokens in a run that separates the windows with the text in place; None if even the longest
    does not."""
    prefix_tokens: int | None
    """Tokens of a prefix, with the same end, that separates them; None if no length does."""


def find_shared_text(
    parts: Sequence[Windows], clusters: NDArray[np.int64], run: int
) -> SharedText | None:
    """Find the text that makes many of the first part's windows near-duplicates of each other.

    parts: the data, then the controls if there are any; clusters: (N,) of the data's windows, by
    runs of ``run`` tokens. Returns None if the windows stay near-duplicates without the shared
    text, or if few are near-duplicates.
    """
    data, controls = parts[0], parts[1:]
    masked = data.window_ids()  # (N,P+S)
    length, longest, groups = min(run, masked.shape[1]), 0, clusters
    for _ in range(_MOST_RUNS):
        members = np.flatnonzero(groups == np.bincount(groups).argmax())
        if len(members) < max(2, _LARGE * len(data)):
            break
        tokens, places = _longest_shared(masked[members], length)
        if not tokens:
            tokens, places = _shared_suffix(masked[members], data.suffix_ids.shape[1])
        if not tokens:
            break
        longest = max(longest, tokens)
        rows, columns = np.nonzero(places)
        masked[members[rows], columns] = -1 - members[rows]  # a token of that window's own
        groups = _clusters([_with_ids(data, masked), *controls], run)
    held = masked < 0
    own = np.where(held, -1, masked)
    separate = min(len(np.unique(groups)), len(np.unique(run_hashes(own, own.shape[1]))))
    left = masked.shape[1] - longest
    if not longest or 2 * left < length or separate < max(4, 2 * len(np.unique(clusters))):
        return None  # little is left of the windows, or they have something else in common
    end = int(np.flatnonzero(held.any(axis=0)).max()) + 1
    enough = _ENOUGH * separate
    return SharedText(
        windows=int(held.any(axis=1).sum()),
        tokens=longest,
        end=end,
        cluster_run=_separating_run(parts, longest, enough),
        prefix_tokens=_separating_prefix(parts, end, length, run, enough),
    )


def _longest_shared(ids: NDArray[np.int32], least: int) -> tuple[int, NDArray[np.bool_]]:
    """Return the length of the longest run that most rows (n,T) hold, and its places: (n,T).

    0 if no run of ``least`` tokens is shared, or if whole rows are: those are duplicates.
    """
    width = ids.shape[1]
    low, high = least - 1, width
    best = np.uint64(0)
    while low < high:
        middle = (low + high + 1) // 2
        commonest = _commonest(run_hashes(ids, middle))
        if commonest is None:
            high = middle - 1
        else:
            low, best = middle, commonest
    places = np.zeros(ids.shape, dtype=np.bool_)
    if low < least or low == width:
        return 0, places
    rows, starts = np.nonzero(run_hashes(ids, low) == best)
    for place in range(low):
        places[rows, starts + place] = True
    return low, places


def _shared_suffix(ids: NDArray[np.int32], tokens: int) -> tuple[int, NDArray[np.bool_]]:
    """Return the length and places of a shared suffix: it joins windows, however short it is."""
    places = np.zeros(ids.shape, dtype=np.bool_)
    hashes = run_hashes(ids[:, -tokens:], tokens)
    commonest = _commonest(hashes)
    if commonest is None:
        return 0, places
    places[np.flatnonzero(hashes[:, 0] == commonest), -tokens:] = True
    return tokens, places


def _commonest(hashes: NDArray[np.uint64]) -> np.uint64 | None:
    """Return the hash that most rows (n,runs) have, if enough do."""
    ordered = np.sort(hashes, axis=1)
    first = np.ones(ordered.shape, dtype=np.bool_)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    values, counts = np.unique(ordered[first], return_counts=True)
    largest = int(counts.argmax())
    return np.uint64(values[largest]) if counts[largest] >= SHARE * len(hashes) else None


def _separating_run(parts: Sequence[Windows], shared: int, enough: float) -> int | None:
    longest = int(parts[0].window_ids().shape[1])
    return next(
        (
            run
            for run in _steps(shared + 1, longest)
            if len(np.unique(_clusters(parts, run))) >= enough
        ),
        None,
    )


def _separating_prefix(
    parts: Sequence[Windows], end: int, length: int, run: int, enough: float
) -> int | None:
    """Return the longest prefix that separates, from one shared token too few for a run to none."""
    tokens = int(parts[0].prefix_ids.shape[1])
    for less in _steps(0, length - 1):
        remaining = tokens - end + length - 1 - less
        if 1 <= remaining < tokens:
            cut = [replace(part, prefix_ids=part.prefix_ids[:, -remaining:]) for part in parts]
            if len(np.unique(_clusters(cut, run))) >= enough:
                return remaining
    return None


def _steps(first: int, last: int) -> Iterator[int]:
    """Yield numbers from the first to the last, with growing steps."""
    step = 1
    while first <= last:
        yield first
        first, step = first + step, step + 1


def _clusters(parts: Sequence[Windows], run: int) -> NDArray[np.int64]:
    """Return the clusters of the first part's windows: (N,)."""
    return find_clusters(parts, run)[: len(parts[0])]


def _with_ids(windows: Windows, ids: NDArray[np.int32]) -> Windows:
    prefix = windows.prefix_ids.shape[1]
    return replace(windows, prefix_ids=ids[:, :prefix], suffix_ids=ids[:, prefix:])
