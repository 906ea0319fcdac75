"""Clusters of near-duplicates: windows that may reveal each other's text.

Knows token ids, sample numbers and groups. Must not know text, folds, models or prompts. Windows of
a cluster share marks: 64-bit hashes that also record what a prompt was fitted on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from memaudit.data.windows import Windows

_ROWS = 4096  # windows hashed at a time
_MARKS = 1 << 24  # marks sorted at a time: about 0.7 GiB with owners and order


def run_hashes(ids: NDArray[np.integer], run: int) -> NDArray[np.uint64]:
    """Hash every run of r = min(run, T) tokens in ``ids`` (N, T): (N, T-r+1).

    The hash is linear in well-mixed tokens, with an odd factor for each place in the run, and is
    mixed once more. Two different runs have the same hash with probability about 2^-63.
    """
    rows, tokens = ids.shape
    length = min(run, tokens)
    starts = tokens - length + 1
    factors = _mix(np.arange(1, length + 1, dtype=np.uint64)) | np.uint64(1)
    hashes = np.zeros((rows, starts), dtype=np.uint64)
    for first in range(0, rows, _ROWS):
        mixed = _mix(ids[first : first + _ROWS].astype(np.uint64))
        part = hashes[first : first + _ROWS]
        for place in range(length):
            part += mixed[:, place : place + starts] * factors[place]
        part[:] = _mix(part)
    return hashes


def find_marks(
    windows: Windows, run: int, origin: str, rows: slice = slice(None)
) -> NDArray[np.uint64]:
    """Return the marks of windows: (N, marks). Windows that share a mark are near-duplicates.

    Marks are 64-bit hashes of each run of ``run`` tokens (the whole window if it is shorter), the
    whole suffix (which a prompt could learn, however short), the sample in the file ``origin``, and
    the group. ``rows``: windows to use; all by default.
    """
    prefixes, suffixes = windows.prefix_ids[rows], windows.suffix_ids[rows]
    samples = [_text_hash(f"sample {origin} {number}") for number in windows.sample[rows].tolist()]
    groups = [
        sample if group is None else _text_hash(f"group {group}")
        for sample, group in zip(samples, windows.group[rows], strict=True)
    ]
    named = np.array([samples, groups], dtype=np.uint64).reshape(2, -1).T
    runs = run_hashes(np.concatenate([prefixes, suffixes], axis=1), run)
    return np.concatenate([runs, run_hashes(suffixes, suffixes.shape[1]), named], axis=1)


def collect_marks(
    windows: Windows, rows: NDArray[np.int64], run: int, origin: str
) -> NDArray[np.uint64]:
    """Return the marks of the windows at ``rows``, sorted and distinct."""
    is_chosen = np.zeros(len(windows), dtype=np.bool_)
    is_chosen[rows] = True
    blocks = [np.empty(0, np.uint64)]
    for block in _blocks(len(windows)):
        blocks.append(np.unique(find_marks(windows, run, origin, block)[is_chosen[block]]))
    marks = np.concatenate(blocks)
    blocks.clear()  # as large as the rest if there are many windows
    marks.sort()
    first = np.ones(len(marks), dtype=np.bool_)
    first[1:] = marks[1:] != marks[:-1]
    return marks[first]


def have_marks(
    windows: Windows, run: int, origin: str, marks: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Return which windows have any of these marks, and so are near-duplicates: (N,)."""
    known, matches = np.unique(marks), np.zeros(len(windows), dtype=np.bool_)
    for block in _blocks(len(windows)):
        own_marks = find_marks(windows, run, origin, block)
        # np.isin would sort the known marks for every block.
        index = np.minimum(np.searchsorted(known, own_marks), len(known) - 1)
        matches[block] = (known[index] == own_marks).any(axis=1) if len(known) else False
    return matches


def find_clusters(parts: Sequence[Windows], run: int) -> NDArray[np.int64]:
    """Return the cluster number of every window of all parts, part after part: (sum of N,).

    Windows are in one cluster if they share a mark (:func:`find_marks`), directly or through
    other windows. Clusters are numbered from 0 in the order of their first windows. With many
    windows, the possible marks are processed in shares, so that memory use hardly grows.
    """
    total = sum(len(part) for part in parts)
    marks = sum(len(part) * _marks_each(part, run) for part in parts)
    shares = max(1, -(-marks // _MARKS))
    labels = np.arange(total, dtype=np.int64)
    for share in range(shares):
        labels = _join(labels, *_chain(*_share_of_marks(parts, run, share, shares)))
    return _by_first(labels)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix bits by splitmix64 (Steele, Lea and Flood 2014), which is one-to-one."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _text_hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _blocks(windows: int) -> list[slice]:
    """Split the windows into blocks, in order."""
    return [slice(first, min(first + _ROWS, windows)) for first in range(0, windows, _ROWS)]


def _marks_each(windows: Windows, run: int) -> int:
    """Return the number of marks of a window."""
    return int(find_marks(windows, run, "", slice(0, 0)).shape[1])


def _share_of_marks(
    parts: Sequence[Windows], run: int, share: int, shares: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the marks of all windows in one of ``shares`` equal shares, and their windows."""
    keys, owners, before = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], 0
    for number, windows in enumerate(parts):
        for part in _blocks(len(windows)):
            marks = find_marks(windows, run, str(number), part)
            # The upper half of a mark decides its share.
            in_share = ((marks >> np.uint64(32)) * np.uint64(shares)) >> np.uint64(32) == share
            keys.append(marks[in_share])
            owners.append(before + part.start + np.nonzero(in_share)[0])
        before += len(windows)
    return np.concatenate(keys), np.concatenate(owners)


def _chain(
    keys: NDArray[np.uint64], owners: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Link each owner of a key to the next owner of the same key: two arrays (edges,)."""
    order = np.argsort(keys, kind="stable")
    equal = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    return owners[order[equal]], owners[order[equal + 1]]


def _join(
    labels: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Merge labels (N,) by linking the windows ``left`` and ``right`` (edges,) in pairs."""
    count = int(labels.max(initial=-1)) + 1
    links = (np.ones(len(left), dtype=np.bool_), (labels[left], labels[right]))
    joined = connected_components(coo_array(links, shape=(count, count)), directed=False)[1]
    return np.asarray(joined[labels], dtype=np.int64)


def _by_first(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Number labels from 0 in the order in which they first occur."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
