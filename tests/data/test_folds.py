from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memaudit.config import ProtocolSettings
from memaudit.data.folds import (
    Fold,
    assign_controls,
    find_clusters,
    fold_of,
    make_folds,
    run_hashes,
)
from memaudit.data.windows import Windows
from memaudit.errors import DataError


def windows_of(
    ids: Sequence[Sequence[int]],
    sample: Sequence[int] | None = None,
    group: Sequence[str | None] | None = None,
) -> Windows:
    rows = np.array(ids, dtype=np.int32)
    count = len(rows)
    return Windows(
        prefix_ids=rows[:, :1],
        suffix_ids=rows[:, 1:],
        sample=np.array(range(count) if sample is None else sample, dtype=np.int64),
        line=np.arange(1, count + 1),
        window=np.zeros(count, dtype=np.int64),
        sample_id=tuple(str(n) for n in range(count)),
        group=tuple(group or [None] * count),
        extra=({},) * count,
        skipped=(),
        boundary_shifts=0,
        columns=(),
        samples=count,
    )


def folded(clusters: Sequence[int], seed: int = 0, **settings: Any) -> tuple[Fold, ...]:
    rng = np.random.default_rng(seed)
    return make_folds(np.array(clusters, dtype=np.int64), ProtocolSettings(**settings), rng)


# Hashes.

tables = st.integers(1, 8).flatmap(
    lambda width: st.lists(
        st.lists(st.integers(0, 2), min_size=width, max_size=width), min_size=1, max_size=12
    )
)


@given(rows=tables, run=st.integers(1, 10))
def test_equal_runs_and_only_they_have_equal_hashes(rows: list[list[int]], run: int) -> None:
    hashes = run_hashes(np.array(rows, dtype=np.int32), run)
    length = min(run, len(rows[0]))
    assert hashes.dtype == np.uint64
    assert hashes.shape == (len(rows), len(rows[0]) - length + 1)
    by_run: dict[tuple[int, ...], set[int]] = {}
    for row, hashed in zip(rows, hashes.tolist(), strict=True):
        for start, value in enumerate(hashed):
            by_run.setdefault(tuple(row[start : start + length]), set()).add(value)
    assert all(len(values) == 1 for values in by_run.values())
    assert len(set.union(*by_run.values())) == len(by_run)


def test_every_run_of_a_small_vocabulary_has_its_own_hash() -> None:
    rows = np.array(np.meshgrid(*[np.arange(4)] * 9)).reshape(9, -1).T  # all 4^9 runs of 9
    assert len(np.unique(run_hashes(rows, 9))) == 4**9


def test_hashes_do_not_depend_on_the_place_in_the_table() -> None:
    rows = np.random.default_rng(0).integers(0, 50_000, (5000, 12), dtype=np.int32)
    whole = run_hashes(rows, 5)
    assert np.array_equal(whole[4000:], run_hashes(rows[4000:], 5))
    assert np.array_equal(whole[:, 3:], run_hashes(rows[:, 3:], 5))


def test_every_bit_of_a_hash_is_used() -> None:
    hashes = run_hashes(np.arange(20_000).reshape(-1, 1), 1)[:, 0]
    bits = (hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.all(np.abs(bits.mean(axis=0) - 0.5) < 0.02)  # standard deviation 0.0035


# Clusters.


def plain_clusters(parts: Sequence[Windows], run: int) -> list[int]:
    """The same by going through all pairs again and again."""
    traits: list[set[Any]] = []
    for number, part in enumerate(parts):
        for row, sample, group in zip(
            part.window_ids().tolist(), part.sample.tolist(), part.group, strict=True
        ):
            length = min(run, len(row))
            runs = {tuple(row[start : start + length]) for start in range(len(row) - length + 1)}
            mine = {("sample", number, sample), ("suffix", *row[1:]), *runs}
            traits.append(mine if group is None else mine | {("group", group)})
    label = list(range(len(traits)))
    changed = True
    while changed:
        changed = False
        for left in range(len(traits)):
            for right in range(left):
                if traits[left] & traits[right] and label[left] != label[right]:
                    label[left] = label[right] = min(label[left], label[right])
                    changed = True
    firsts = sorted(set(label))
    return [firsts.index(one) for one in label]


@st.composite
def parts_of_windows(draw: st.DrawFn) -> list[Windows]:
    width = draw(st.integers(2, 6))
    parts = []
    for _ in range(draw(st.integers(1, 2))):
        ids = draw(
            st.lists(
                st.lists(st.integers(0, 4), min_size=width, max_size=width),
                min_size=1,
                max_size=8,
            )
        )
        sample = draw(st.lists(st.integers(0, 12), min_size=len(ids), max_size=len(ids)))
        groups = st.sampled_from([None, None, None, "a", "b"])
        group = draw(st.lists(groups, min_size=len(ids), max_size=len(ids)))
        parts.append(windows_of(ids, sample, group))
    return parts


@settings(deadline=None)
@given(parts=parts_of_windows(), run=st.integers(1, 7))
def test_clusters_are_what_is_connected(parts: list[Windows], run: int) -> None:
    clusters = find_clusters(parts, run)
    assert clusters.dtype == np.int64
    assert clusters.tolist() == plain_clusters(parts, run)


def test_a_shared_run_joins_wherever_it_stands_and_in_chains() -> None:
    ids = [
        [1, 2, 3, 4, 5],
        [90, 91, 92, 93, 94],
        [80, 3, 4, 5, 81],  # with the first
        [3, 4, 80, 5, 81],  # with none
        [81, 82, 80, 3, 4],  # with the third, and so with the first
    ]
    assert find_clusters([windows_of(ids)], 3).tolist() == [0, 1, 0, 2, 0]


def test_windows_may_share_any_number_of_runs() -> None:
    ids = np.arange(2 * 300).reshape(2, 300)
    twice = windows_of(np.concatenate([ids, ids]).tolist())
    for run in (1, 45, 300):  # 256 shared runs at 45
        assert find_clusters([twice], run).tolist() == [0, 1, 0, 1]


def test_samples_join_within_a_part_and_groups_and_runs_across() -> None:
    data = windows_of([[1, 2], [3, 4], [5, 6]], [0, 0, 1], [None, None, "g"])
    controls = windows_of([[7, 8], [9, 10], [3, 4]], [0, 1, 2], [None, "g", None])
    assert find_clusters([data, controls], 2).tolist() == [0, 0, 1, 2, 1, 0]


# Folds.

cluster_lists = st.lists(st.integers(0, 30), min_size=12, max_size=120)


@settings(deadline=None)
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


def test_select_passes_a_large_cluster_over() -> None:
    clusters = [0] * 60 + [1] * 60 + list(range(2, 82))
    for seed in range(20):
        for fold in folded(clusters, seed):
            assert len(fold.select) == 10
            assert fold.select.min() >= 120


def test_select_takes_the_smallest_where_all_are_large() -> None:
    clusters = [number for number in range(6) for _ in range(20 + number)]
    for fold in folded(clusters, folds=3):
        outside = np.bincount(np.array(clusters)[np.concatenate([fold.fit, fold.select])])
        assert len(fold.select) == outside[outside > 0].min()


def test_a_cluster_of_most_windows_leaves_two_folds_possible() -> None:
    for clusters in ([0] * 97 + [1, 2, 3], [0] * 80 + list(range(1, 21))):
        for fold in folded(clusters):
            assert min(len(fold.fit), len(fold.select), len(fold.audit)) > 0


@pytest.mark.parametrize(("count", "folds", "needed"), [(3, 2, 4), (3, 3, 4), (5, 5, 6), (0, 2, 4)])
def test_too_few_clusters_are_an_error(count: int, folds: int, needed: int) -> None:
    message = f"has {count} clusters of near-duplicates, and {folds} folds need at least {needed}"
    with pytest.raises(DataError, match=message) as error:
        folded([number % max(count, 1) for number in range(20 * count)], folds=folds)
    assert ("fewer folds" in str(error.value)) == (folds > 3)
    folded(range(needed), folds=folds)


def test_fold_of_is_the_audit() -> None:
    made = folded([number // 3 for number in range(90)], folds=3)
    numbers = fold_of(made, 90)
    for number, fold in enumerate(made):
        assert np.flatnonzero(numbers == number).tolist() == fold.audit.tolist()


# Controls.


def test_controls_go_to_the_fold_that_audits_their_cluster() -> None:
    data = np.arange(200) // 2
    made = folded(data.tolist(), folds=4)
    controls = np.array([7, 500, 90, 7, 501, 502, 503, 0])
    assigned = assign_controls(controls, data, made, np.random.default_rng(0))
    assert assigned.dtype == np.int64
    for control, fold in zip(controls.tolist(), assigned.tolist(), strict=True):
        if control < 100:
            assert np.isin(np.flatnonzero(data == control), made[fold].audit).all()
    assert sorted(assigned[controls >= 500].tolist()) == [0, 1, 2, 3]


def test_other_controls_are_spread_evenly_at_random() -> None:
    data, controls = np.arange(20), np.arange(1000, 1103)
    made = folded(data.tolist(), folds=5)
    first, second = (
        assign_controls(controls, data, made, np.random.default_rng(seed)) for seed in (0, 1)
    )
    assert set(np.bincount(first, minlength=5).tolist()) == {20, 21}
    assert first.tolist() != second.tolist()
    assert first.tolist() != sorted(first.tolist())
