"""Text that most windows share, such as a system message, and what tells the windows apart again.

Knows token ids and clusters. Must not know text, folds, models or prompts. A run that stands in
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
"""Share of the windows from which a cluster is looked at."""
_MOST_RUNS = 8
"""Runs that are looked for: a preamble and a footer, of each kind of record."""
_APART = 0.95
"""Share of the clusters without the shared text that a remedy has to come to."""


@dataclass(frozen=True)
class SharedText:
    """What most windows of a large cluster share, which are no near-duplicates without it."""

    windows: int
    """Windows that hold some of it."""
    tokens: int
    """Of the longest run."""
    end: int
    """Furthest place in a window right after such a run, 1..P+S."""
    cluster_run: int | None
    """Tokens in a run that tells the windows apart with the text in place; None where even the
    longest does not."""
    prefix_tokens: int | None
    """Length of a prefix, ending where it does now, that does the same; None likewise."""


def find_shared_text(
    parts: Sequence[Windows], clusters: NDArray[np.int64], run: int
) -> SharedText | None:
    """Find what makes many of the first part's windows near-duplicates of each other.

    parts: the data, then the controls where there are any; clusters: (N,) of the data's windows,
    by runs of ``run`` tokens. None where the windows stay near-duplicates without what they
    share, and where few are near-duplicates.
    """
    data, others = parts[0], parts[1:]
    masked = data.window_ids()  # (N,P+S)
    length, longest, found = min(run, masked.shape[1]), 0, clusters
    for _ in range(_MOST_RUNS):
        members = np.flatnonzero(found == np.bincount(found).argmax())
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
        found = _clusters([_with_ids(data, masked), *others], run)
    held = masked < 0
    own = np.where(held, -1, masked)
    apart = min(len(np.unique(found)), len(np.unique(run_hashes(own, own.shape[1]))))
    left = masked.shape[1] - longest
    if not longest or 2 * left < length or apart < max(4, 2 * len(np.unique(clusters))):
        return None  # little is left of them without it, or it is not what they have in common
    end = int(np.flatnonzero(held.any(axis=0)).max()) + 1
    enough = _APART * apart
    return SharedText(
        windows=int(held.any(axis=1).sum()),
        tokens=longest,
        end=end,
        cluster_run=_separating_run(parts, longest, enough),
        prefix_tokens=_separating_prefix(parts, end, length, run, enough),
    )


def _longest_shared(ids: NDArray[np.int32], least: int) -> tuple[int, NDArray[np.bool_]]:
    """Tokens of the longest run that most rows (n,T) hold, and where it stands: (n,T).

    0 where none of ``least`` tokens is shared, and where whole rows are: those are duplicates.
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
    """The same of whole suffixes, which join windows however short they are."""
    places = np.zeros(ids.shape, dtype=np.bool_)
    hashes = run_hashes(ids[:, -tokens:], tokens)
    commonest = _commonest(hashes)
    if commonest is None:
        return 0, places
    places[np.flatnonzero(hashes[:, 0] == commonest), -tokens:] = True
    return tokens, places


def _commonest(hashes: NDArray[np.uint64]) -> np.uint64 | None:
    """The hash that most rows (n,runs) have, if enough do."""
    ordered = np.sort(hashes, axis=1)
    first = np.ones(ordered.shape, dtype=np.bool_)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    values, counts = np.unique(ordered[first], return_counts=True)
    most = int(counts.argmax())
    return np.uint64(values[most]) if counts[most] >= SHARE * len(hashes) else None


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
    """The prefix that keeps most tokens: from one too few of the shared ones for a run, to none."""
    tokens = int(parts[0].prefix_ids.shape[1])
    for less in _steps(0, length - 1):
        kept = tokens - end + length - 1 - less
        if 1 <= kept < tokens:
            cut = [replace(part, prefix_ids=part.prefix_ids[:, -kept:]) for part in parts]
            if len(np.unique(_clusters(cut, run))) >= enough:
                return kept
    return None


def _steps(first: int, last: int) -> Iterator[int]:
    """Numbers from the first to the last, further and further apart."""
    step = 1
    while first <= last:
        yield first
        first, step = first + step, step + 1


def _clusters(parts: Sequence[Windows], run: int) -> NDArray[np.int64]:
    """The clusters of the first part's windows: (N,)."""
    return find_clusters(parts, run)[: len(parts[0])]


def _with_ids(windows: Windows, ids: NDArray[np.int32]) -> Windows:
    prefix = windows.prefix_ids.shape[1]
    return replace(windows, prefix_ids=ids[:, :prefix], suffix_ids=ids[:, prefix:])
