from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import made_windows
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from memaudit.data.clusters import Marker, collect_marks, find_clusters, have_marks
from memaudit.data.run_hashes import run_hashes
from memaudit.data.windows import PADDING, Windows


def windows_of(
    ids: Sequence[Sequence[int]],
    sample: Sequence[int] | None = None,
    group: Sequence[str | None] | None = None,
) -> Windows:
    changes: dict[str, Any] = {} if group is None else {"group": tuple(group)}
    if sample is not None:
        changes["sample"] = np.array(sample, dtype=np.int64)
    return made_windows.windows_of(np.array(ids), 1, **changes)


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
            part.ids.tolist(), part.sample.tolist(), part.group, strict=True
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


@given(
    parts=parts_of_windows(),
    run=st.integers(1, 7),
    marks=st.sampled_from([10**6, 20, 3]),
    rows=st.integers(1, 9),
)
def test_clusters_are_what_is_connected(
    parts: list[Windows], run: int, marks: int, rows: int
) -> None:
    """However many marks are sorted at once, and windows hashed at a time."""
    with (
        mock.patch("memaudit.data.clusters._MARKS", marks),
        mock.patch("memaudit.data.masked_windows._ROWS", rows),
    ):
        clusters = find_clusters(parts, run)
    assert clusters.dtype == np.int64
    assert clusters.tolist() == plain_clusters(parts, run)


@given(parts=parts_of_windows(), run=st.integers(1, 7), rows=st.integers(1, 3), data=st.data())
def test_windows_that_share_a_mark_with_others_are_known(
    parts: list[Windows], run: int, rows: int, data: st.DataObject
) -> None:
    windows = parts[0]
    numbers = st.sets(st.integers(0, len(windows) - 1))
    chosen = np.array(sorted(data.draw(numbers)), dtype=np.int64)
    marks = Marker(windows, run, "file").marks()
    with mock.patch("memaudit.data.masked_windows._ROWS", rows):
        seen = collect_marks(windows, chosen, run, "file")
        met = have_marks(windows, run, "file", seen)
    assert seen.tolist() == sorted(set(marks[chosen].ravel().tolist()))
    assert met.tolist() == [bool(set(row) & set(seen.tolist())) for row in marks.tolist()]


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


def test_padding_joins_no_windows() -> None:
    ids = [[PADDING, PADDING, PADDING, number, number + 1] for number in range(10, 40, 2)]
    assert find_clusters([windows_of(ids)], 3).tolist() == list(range(15))
