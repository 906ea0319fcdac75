"""Near-duplicate clusters, and folds that no cluster crosses.

Knows token ids, sample numbers and groups. Must not know text, models or prompts. Why folds go
by cluster: in a random split, 27–30 % of the audited suffixes of the standard benchmark stand
word for word in the fitted part, and a prompt that only learned those would look like an attack.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from memaudit.config import ProtocolSettings
from memaudit.data.windows import Windows
from memaudit.errors import DataError

_ROWS = 4096  # windows hashed at a time


@dataclass(frozen=True, eq=False)
class Fold:
    """Indices into the data's windows, each array sorted. Together they are all of them."""

    fit: NDArray[np.int64]
    """Windows that train the prompt."""
    select: NDArray[np.int64]
    """Windows that choose its epoch."""
    audit: NDArray[np.int64]
    """Windows that the prompt is scored on, and that it never saw."""


def run_hashes(ids: NDArray[np.integer], run: int) -> NDArray[np.uint64]:
    """Hash every run of r = min(run, T) tokens in ``ids`` (N, T): (N, T-r+1).

    The hash is linear in well-mixed tokens, with an odd factor for each place in the run, and
    mixed once more: two different runs share it with a chance of about 2^-63.
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


def find_marks(windows: Windows, run: int, origin: str) -> NDArray[np.uint64]:
    """What makes windows near-duplicates of each other, as 64-bit hashes: (N, marks).

    Each window's runs of ``run`` tokens (itself, where it is shorter), its whole suffix (which a
    prompt could learn by heart, however short), its sample in the file ``origin``, its group.
    """
    suffixes = run_hashes(windows.suffix_ids, windows.suffix_ids.shape[1])
    samples = [_text_hash(f"sample {origin} {number}") for number in windows.sample.tolist()]
    groups = [
        sample if group is None else _text_hash(f"group {group}")
        for sample, group in zip(samples, windows.group, strict=True)
    ]
    named = np.array([samples, groups], dtype=np.uint64).T
    return np.concatenate([run_hashes(windows.window_ids(), run), suffixes, named], axis=1)


def find_clusters(parts: Sequence[Windows], run: int) -> NDArray[np.int64]:
    """Number the cluster of every window of all parts, one after the other: (sum of N,).

    Windows are of one cluster if they share a mark (:func:`find_marks`), directly or through
    other windows. Clusters are numbered from 0 in the order of their first windows.
    """
    total = sum(len(part) for part in parts)
    bounds = np.cumsum([0, *(len(part) for part in parts)])
    marks = [find_marks(part, run, str(number)) for number, part in enumerate(parts)]
    owners = [
        np.repeat(np.arange(*pair, dtype=np.int64), found.shape[1])
        for pair, found in zip(itertools.pairwise(bounds), marks, strict=True)
    ]
    keys = np.concatenate([found.ravel() for found in marks])
    left, right = _chain(keys, np.concatenate(owners))
    graph = coo_array((np.ones(len(left), dtype=np.bool_), (left, right)), shape=(total, total))
    return _by_first(connected_components(graph, directed=False)[1])


def make_folds(
    clusters: NDArray[np.int64], settings: ProtocolSettings, rng: np.random.Generator
) -> tuple[Fold, ...]:
    """Split the data's windows so that each is in the ``audit`` of exactly one fold.

    ``clusters`` (N,): the cluster of each data window. No cluster crosses a border between
    ``fit``, ``select`` and ``audit``; with ``split = "random"`` every window counts as one.

    Raises:
        DataError: if there are too few clusters for every part of every fold to have one.
    """
    if settings.split == "random":
        clusters = np.arange(len(clusters))
    members = _members(clusters)
    # Two folds: what is outside one is the other, which has to give both fit and select.
    needed = max(settings.folds + 1, 4)
    if len(members) < needed:
        raise DataError(
            f"the data has {len(members)} clusters of near-duplicates, and {settings.folds} folds"
            f" need at least {needed}; give more data"
            + (", or fewer folds" if settings.folds > 3 else "")
        )
    shuffled = [members[number] for number in rng.permutation(len(members))]
    spread = _spread(shuffled, settings.folds)
    return tuple(
        _fold(spread, audited, settings.select_fraction, rng) for audited in range(len(spread))
    )


def fold_of(folds: Sequence[Fold], windows: int) -> NDArray[np.int64]:
    """The fold that audits each of the data's windows: (N,)."""
    result = np.full(windows, -1, dtype=np.int64)
    for number, fold in enumerate(folds):
        result[fold.audit] = number
    return result


def assign_controls(
    control_clusters: NDArray[np.int64],
    data_clusters: NDArray[np.int64],
    folds: Sequence[Fold],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The fold whose prompts score each control: (M,).

    A control that is a near-duplicate of data goes to the fold that audits those, so that its
    prompts saw neither; the others are spread evenly at random.
    """
    auditors = fold_of(folds, len(data_clusters)).tolist()
    auditing = dict(zip(data_clusters.tolist(), auditors, strict=True))
    assigned = np.array([auditing.get(one, -1) for one in control_clusters.tolist()], np.int64)
    free = np.flatnonzero(assigned < 0)
    assigned[free] = rng.permutation(np.arange(len(free)) % len(folds))
    return assigned


# Clusters.


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Splitmix64 (Steele, Lea and Flood 2014): one-to-one, and every bit depends on every bit."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _text_hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _chain(
    keys: NDArray[np.int64] | NDArray[np.uint64], owners: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Link each owner of a key to the next owner of the same key: (2, edges)."""
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    return np.stack([owners[order[same]], owners[order[same + 1]]])


def _by_first(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Number labels from 0 in the order in which they first occur."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


# Folds. A cluster is here the array of its windows.


def _members(clusters: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    order = np.argsort(clusters, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(clusters[order])) + 1) if len(order) else []


def _spread(members: Sequence[NDArray[np.int64]], folds: int) -> list[list[NDArray[np.int64]]]:
    """Give the largest cluster to the smallest fold, again and again."""
    spread: list[list[NDArray[np.int64]]] = [[] for _ in range(folds)]
    sizes = np.zeros(folds, dtype=np.int64)
    for cluster in sorted(members, key=len, reverse=True):
        smallest = int(np.argmin(sizes))
        spread[smallest].append(cluster)
        sizes[smallest] += len(cluster)
    if folds == 2:  # a cluster larger than all others together would be alone in its fold
        spread.sort(key=len)
        if len(spread[0]) == 1:
            spread[0].append(spread[1].pop())
    return spread


def _fold(
    spread: Sequence[Sequence[NDArray[np.int64]]],
    audited: int,
    fraction: float,
    rng: np.random.Generator,
) -> Fold:
    outside = [
        cluster for number, part in enumerate(spread) if number != audited for cluster in part
    ]
    chosen = _choose([len(cluster) for cluster in outside], fraction, rng)
    return Fold(
        fit=_together([one for number, one in enumerate(outside) if number not in chosen]),
        select=_together([one for number, one in enumerate(outside) if number in chosen]),
        audit=_together(spread[audited]),
    )


def _choose(sizes: Sequence[int], fraction: float, rng: np.random.Generator) -> set[int]:
    """Clusters at random until they are the fraction of the windows; at least one, never all.

    One of more than twice what is missing is passed over, unless no smaller one is left to take.
    """
    missing = max(1, round(fraction * sum(sizes)))
    chosen: set[int] = set()
    for number in rng.permutation(len(sizes)).tolist():
        if missing <= 0 or len(chosen) == len(sizes) - 1:
            break
        if sizes[number] <= 2 * missing:
            chosen.add(number)
            missing -= sizes[number]
    return chosen or {int(np.argmin(sizes))}


def _together(clusters: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.sort(np.concatenate(clusters))
