"""Folds that no near-duplicate cluster crosses.

Knows cluster numbers. Must not know text, token ids, models or prompts. Why folds go by cluster:
in a random split, 27–30 % of the audited suffixes of the standard benchmark also occur verbatim in
the fitted part, and a prompt that only learned those would look like an attack.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memaudit.config.settings import LADDER, NEED_FOLDS, AttackName, ProtocolSettings
from memaudit.errors import DataError


@dataclass(frozen=True, eq=False)
class Fold:
    """Indices into the data's windows, each array sorted. Together they cover all windows."""

    fit: NDArray[np.int64]
    """Windows that the prompt is trained on."""
    select: NDArray[np.int64]
    """Windows used to choose its epoch."""
    audit: NDArray[np.int64]
    """Unseen windows that the prompt is scored on."""


def make_folds(
    clusters: NDArray[np.int64],
    settings: ProtocolSettings,
    rng: np.random.Generator,
    samples: NDArray[np.int64] | None = None,
) -> tuple[Fold, ...]:
    """Split the data's windows so that each is in the ``audit`` of exactly one fold.

    ``clusters`` (N,): the cluster of each data window. A cluster is never divided between ``fit``,
    ``select`` and ``audit``; with ``split = "random"`` every sample is its own
    cluster. ``samples`` (N,): the sample of each window; None if each has one window.

    Raises:
        DataError: if there are too few clusters for every part of every fold.
    """
    if settings.split == "random":
        clusters = np.arange(len(clusters)) if samples is None else samples
    members = _members(clusters)
    if _lacking(len(members), settings):
        raise DataError(_too_few(len(members), settings))
    shuffled = [members[number] for number in rng.permutation(len(members))]
    spread = _spread(shuffled, settings.folds)
    return tuple(_fold(spread, audited, settings, rng) for audited in range(len(spread)))


def attacks_left_out(
    attacks: Iterable[str], samples: int, clusters: int, settings: ProtocolSettings
) -> tuple[AttackName, ...]:
    """Return the attacks that cannot run: they need folds, and there are too few clusters."""
    possible = not _lacking(samples if settings.split == "random" else clusters, settings)
    asked = set(attacks)
    return tuple(name for name in LADDER if name in NEED_FOLDS & asked and not possible)


def left_out_sentence(attacks: Sequence[str], clusters: int, settings: ProtocolSettings) -> str:
    """Say which attacks cannot run, why, and what would help."""
    *rest, last = attacks
    named = " and ".join(filter(None, [", ".join(rest), last]))
    return f"{named} cannot run: {_too_few(clusters, settings)}."


def untrained_sentence(attacks: Sequence[str], settings: ProtocolSettings) -> str:
    """Say which attacks trained no prompt in any fold, and what would help; empty if all did."""
    if not attacks:
        return ""
    return (
        f"{' and '.join(attacks)} trained no prompt: no fold has {settings.least_select:,} windows "
        "to choose an epoch by; give more records."
    )


def _lacking(clusters: int, settings: ProtocolSettings) -> int:
    """Return how many more clusters the folds need; 0 if they are enough."""
    # With two folds, each must give both fit and select of the other.
    return max(0, max(settings.folds + 1, 4) - clusters)


def _too_few(clusters: int, settings: ProtocolSettings) -> str:
    lacking = _lacking(clusters, settings)
    return (
        f"the data has {clusters} cluster{'' if clusters == 1 else 's'} of near-duplicates, and "
        f"{settings.folds} folds need at least {clusters + lacking}; give at least {lacking} more "
        f"record{' that is no near-duplicate' if lacking == 1 else 's that are no near-duplicates'}"
        + (", or fewer folds" if settings.folds > 3 else "")
    )


def fold_of(folds: Sequence[Fold], windows: int) -> NDArray[np.int64]:
    """Return the fold that audits each of the data's windows: (N,). 0 without folds."""
    result = np.full(windows, -1 if folds else 0, dtype=np.int64)
    for number, fold in enumerate(folds):
        result[fold.audit] = number
    return result


def assign_controls(
    control_samples: NDArray[np.int64],
    control_clusters: NDArray[np.int64],
    data_clusters: NDArray[np.int64],
    folds: Sequence[Fold],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return the fold whose prompts score each control: (M,).

    A control that is a near-duplicate of data goes to the fold that audits that data, so that its
    prompts saw neither. The other samples are spread evenly at random.
    """
    auditors = fold_of(folds, len(data_clusters)).tolist()
    fold_by_cluster = dict(zip(data_clusters.tolist(), auditors, strict=True))
    assigned = np.array(
        [fold_by_cluster.get(cluster, -1) for cluster in control_clusters.tolist()], np.int64
    )
    free = np.flatnonzero(assigned < 0)
    samples, places = np.unique(control_samples[free], return_inverse=True)
    assigned[free] = rng.permutation(np.arange(len(samples)) % max(1, len(folds)))[places]
    return assigned


# Below, a cluster is the array of its windows.


def _members(clusters: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    order = np.argsort(clusters, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(clusters[order])) + 1) if len(order) else []


def _spread(members: Sequence[NDArray[np.int64]], folds: int) -> list[list[NDArray[np.int64]]]:
    """Assign clusters to folds: repeatedly give the largest to the smallest fold."""
    spread: list[list[NDArray[np.int64]]] = [[] for _ in range(folds)]
    sizes = np.zeros(folds, dtype=np.int64)
    for cluster in sorted(members, key=len, reverse=True):
        smallest = int(np.argmin(sizes))
        spread[smallest].append(cluster)
        sizes[smallest] += len(cluster)
    if folds == 2:  # a cluster larger than the rest together would be alone in its fold
        spread.sort(key=len)
        if len(spread[0]) == 1:
            spread[0].append(spread[1].pop())
    return spread


def _fold(
    spread: Sequence[Sequence[NDArray[np.int64]]],
    audited: int,
    settings: ProtocolSettings,
    rng: np.random.Generator,
) -> Fold:
    outside = [
        cluster for number, part in enumerate(spread) if number != audited for cluster in part
    ]
    sizes = [len(cluster) for cluster in outside]
    wanted = round(settings.select_fraction * sum(sizes))
    chosen = _choose(sizes, max(wanted, min(settings.least_select, sum(sizes) // 3)), rng)
    return Fold(
        fit=_windows_of([cluster for i, cluster in enumerate(outside) if i not in chosen]),
        select=_windows_of([cluster for i, cluster in enumerate(outside) if i in chosen]),
        audit=_windows_of(spread[audited]),
    )


def _choose(sizes: Sequence[int], windows: int, rng: np.random.Generator) -> set[int]:
    """Choose clusters at random up to a number of windows; at least one cluster, never all.

    A cluster of more than twice the missing number is skipped unless no smaller one is left.
    """
    missing = max(1, windows)
    chosen: set[int] = set()
    for number in rng.permutation(len(sizes)).tolist():
        if missing <= 0 or len(chosen) == len(sizes) - 1:
            break
        if sizes[number] <= 2 * missing:
            chosen.add(number)
            missing -= sizes[number]
    return chosen or {int(np.argmin(sizes))}


def _windows_of(clusters: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.sort(np.concatenate(clusters))
