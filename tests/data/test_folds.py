from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from memaudit.config.settings import ProtocolSettings
from memaudit.data.folds import (
    Fold,
    assign_controls,
    fold_of,
    make_folds,
)
from memaudit.errors import DataError


def folded(clusters: Sequence[int], seed: int = 0, **settings: Any) -> tuple[Fold, ...]:
    rng = np.random.default_rng(seed)
    return make_folds(np.array(clusters, dtype=np.int64), ProtocolSettings(**settings), rng)


cluster_lists = st.lists(st.integers(0, 30), min_size=12, max_size=120)


@given(
    clusters=cluster_lists,
    folds=st.integers(2, 5),
    fraction=st.floats(0.01, 0.99),
    split=st.sampled_from(["clusters", "random"]),
    seed=st.integers(0, 5),
)
def test_folds_keep_their_promises(
    clusters: list[int], folds: int, fraction: float, split: str, seed: int
) -> None:
    assume(len(set(clusters)) > max(folds, 3))
    made = folded(clusters, seed, folds=folds, select_fraction=fraction, split=split)
    assert len(made) == folds
    everything = list(range(len(clusters)))
    assert sorted(np.concatenate([fold.audit for fold in made]).tolist()) == everything
    for fold in made:
        parts = [fold.fit, fold.select, fold.audit]
        for part in parts:
            assert len(part)
            assert part.dtype == np.int64
            assert part.tolist() == sorted(part.tolist())
        assert sorted(np.concatenate(parts).tolist()) == everything
        if split == "clusters":
            in_part = [{clusters[number] for number in part.tolist()} for part in parts]
            assert sum(map(len, in_part)) == len(set(clusters))
    again = folded(clusters, seed, folds=folds, select_fraction=fraction, split=split)
    for fold, same in zip(made, again, strict=True):
        for name in ("fit", "select", "audit"):
            assert np.array_equal(getattr(fold, name), getattr(same, name))


@pytest.mark.parametrize(("split", "select"), [("clusters", 76), ("random", 75)])
def test_folds_of_small_clusters_are_of_equal_size(split: str, select: int) -> None:
    clusters = [number // 2 for number in range(1000)]  # whole pairs: 75 cannot be reached
    for fold in folded(clusters, folds=4, split=split):
        assert (len(fold.audit), len(fold.select)) == (250, select)


def test_another_seed_gives_other_folds() -> None:
    first, second = folded(range(100), 0), folded(range(100), 1)
    assert first[0].audit.tolist() != second[0].audit.tolist()


@pytest.mark.parametrize(("count", "select"), [(1000, 50), (300, 30), (100, 16), (8, 1)])
def test_select_has_thirty_windows_or_a_third_of_what_is_not_audited(
    count: int, select: int
) -> None:
    for fold in folded(range(count)):
        assert len(fold.select) == select


def test_select_passes_a_large_cluster_over() -> None:
    clusters = [0] * 60 + [1] * 60 + list(range(2, 82))
    for seed in range(20):
        for fold in folded(clusters, seed, least_select=1):
            assert len(fold.select) == 10
            assert fold.select.min() >= 120


def test_select_takes_the_smallest_where_all_are_large() -> None:
    clusters = [number for number in range(6) for _ in range(20 + number)]
    for fold in folded(clusters, folds=3, least_select=1):
        outside = np.bincount(np.array(clusters)[np.concatenate([fold.fit, fold.select])])
        assert len(fold.select) == outside[outside > 0].min()


def test_a_cluster_of_most_windows_leaves_two_folds_possible() -> None:
    for clusters in ([0] * 97 + [1, 2, 3], [0] * 80 + list(range(1, 21))):
        for fold in folded(clusters):
            assert min(len(fold.fit), len(fold.select), len(fold.audit)) > 0


@pytest.mark.parametrize(("count", "folds", "needed"), [(3, 2, 4), (3, 3, 4), (5, 5, 6), (0, 2, 4)])
def test_too_few_clusters_are_an_error(count: int, folds: int, needed: int) -> None:
    some = "1 cluster" if count == 1 else f"{count} clusters"
    message = f"has {some} of near-duplicates, and {folds} folds need at least {needed}"
    with pytest.raises(DataError, match=message) as error:
        folded([number % max(count, 1) for number in range(20 * count)], folds=folds)
    assert ("fewer folds" in str(error.value)) == (folds > 3)
    folded(range(needed), folds=folds)


def test_fold_of_is_the_audit() -> None:
    made = folded([number // 3 for number in range(90)], folds=3)
    numbers = fold_of(made, 90)
    for number, fold in enumerate(made):
        assert np.flatnonzero(numbers == number).tolist() == fold.audit.tolist()
    assert fold_of(made[:1], 90)[made[1].audit].tolist() == [-1] * len(made[1].audit)
    assert fold_of((), 3).tolist() == [0, 0, 0]


# Controls.


def test_controls_go_to_the_fold_that_audits_their_cluster() -> None:
    data = np.arange(200) // 2
    made = folded(data.tolist(), folds=4)
    controls = np.array([7, 500, 90, 7, 501, 502, 503, 0])
    assigned = assign_controls(
        np.arange(len(controls)), controls, data, made, np.random.default_rng(0)
    )
    assert assigned.dtype == np.int64
    for control, fold in zip(controls.tolist(), assigned.tolist(), strict=True):
        if control < 100:
            assert np.isin(np.flatnonzero(data == control), made[fold].audit).all()
    assert sorted(assigned[controls >= 500].tolist()) == [0, 1, 2, 3]


def test_the_windows_of_a_sample_are_scored_in_one_fold() -> None:
    data, samples = np.arange(20), np.repeat(np.arange(40), 3)
    made = folded(data.tolist(), folds=4)
    assigned = assign_controls(samples, 1000 + samples, data, made, np.random.default_rng(0))
    by_sample = assigned.reshape(40, 3)
    assert (by_sample == by_sample[:, :1]).all()
    assert np.bincount(by_sample[:, 0]).tolist() == [10] * 4
    protocol = ProtocolSettings(split="random")
    clusters = np.zeros(120, dtype=np.int64)
    folds = make_folds(clusters, protocol, np.random.default_rng(0), samples)
    audited = fold_of(folds, 120).reshape(40, 3)
    assert (audited == audited[:, :1]).all()


def test_other_controls_are_spread_evenly_at_random() -> None:
    data, controls = np.arange(20), np.arange(1000, 1103)
    made = folded(data.tolist(), folds=5)
    first, second = (
        assign_controls(np.arange(len(controls)), controls, data, made, np.random.default_rng(seed))
        for seed in (0, 1)
    )
    assert set(np.bincount(first, minlength=5).tolist()) == {20, 21}
    assert first.tolist() != second.tolist()
    assert first.tolist() != sorted(first.tolist())
