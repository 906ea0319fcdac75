"""Sweeps that ask no model, and the windows that others ask about: known answers, brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from subjects_sweep import brute_queries, make_part, make_subject, random_ids

from memaudit.config.settings import ScoreSettings
from memaudit.diagnose.protocol import diagnose
from memaudit.diagnose.section import Section
from memaudit.diagnose.subject import Part
from memaudit.diagnose.sweep.measure import numeric, repetitions_of
from memaudit.diagnose.sweep.repetitions import groups_of, sweep_repetitions, trend
from memaudit.diagnose.sweep.sampling import (
    PROBABILITIES,
    SHARES,
    discoverable,
    quantiles,
    sweep_sampling,
)
from memaudit.diagnose.sweep.settings import SweepSettings
from memaudit.diagnose.sweep.suffixes import sweep_suffixes
from memaudit.diagnose.sweep.view import View, differs_from_zero
from memaudit.diagnose.sweep.windows import Sampled, sample_windows
from memaudit.errors import UsageError
from memaudit.progress import Silent
from memaudit.report.diagnosis import Diagnosis
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples

S = 6
SURE = Resamples(0.95, 100, (0, 41))


def damaged(ids: np.ndarray, seed: int) -> np.ndarray:
    """Continuations (N,S): the suffix with some of its tokens replaced."""
    rng = np.random.default_rng(seed)
    suffix = ids[:, -S:].copy()
    wrong = rng.random(suffix.shape) < rng.random((len(ids), 1)) ** 3
    suffix[wrong] += 1
    return suffix


def two_attacks(count: int, seed: int, **columns: Any) -> tuple[Part, dict[str, np.ndarray]]:
    ids = random_ids(count, 8 + S, seed)
    continuations = {
        name: damaged(ids, seed + place) for place, name in enumerate(("none", "copy"))
    }
    return make_part(ids, continuations, S, **columns), continuations


def by_name(result: Diagnosis, name: str) -> list[list[Any]]:
    return [list(row) for table in result.tables if table.name == name for row in table.rows]


def by_repetitions(data: Part, controls: Part | None = None) -> Section:
    parts = {"data": data} if controls is None else {"data": data, "controls": controls}
    view = View(parts, SURE)
    return sweep_repetitions(view, "dup", repetitions_of(data, None), ("none",))


def test_every_suffix_length_is_as_cut_from_the_continuations() -> None:
    data, continuations = two_attacks(200, 1)
    controls, theirs = two_attacks(50, 9)
    piece = sweep_suffixes(View({"data": data, "controls": controls}, SURE), S, ("none", "copy"))
    for row in piece.tables[0].rows:
        s, cells = row[0], row[1:]
        pairs = [(data, continuations["none"]), (controls, theirs["none"])]
        pairs += [(data, continuations["copy"]), (controls, theirs["copy"])]
        for cell, (part, tokens) in zip(cells, pairs, strict=True):
            suffix = part.ids[:, -S:]
            true = (tokens[:, :s] == suffix[:, :s]).all(axis=1).mean()
            assert isinstance(cell, Estimate)
            assert cell.value == pytest.approx(true)
            assert cell.low <= true <= cell.high
    assert [row[0] for row in piece.tables[0].rows] == [1, 2, 3, 5, 6]
    whole = piece.plots[0].lines[0]
    assert list(whole.x) == [1, 2, 3, 4, 5, 6]
    assert whole.y[3] == pytest.approx(
        (continuations["none"][:, :4] == data.ids[:, 8:12]).all(1).mean()
    )


@settings(max_examples=50)
@given(st.floats(0.002, 0.999), st.sampled_from(PROBABILITIES), st.integers(1, 400))
def test_a_window_is_discoverable_when_the_formula_says_so(p_z: float, p: float, n: int) -> None:
    needed = 1 - (1 - p_z) ** n
    if abs(needed - p) > 1e-9:
        assert bool(discoverable(np.log([p_z]), n, p)[0]) == (needed >= p)


def test_samples_until_a_share_comes_out_by_trying_every_number() -> None:
    rng = np.random.default_rng(3)
    p_z = np.exp(-6 * rng.random(150))
    log_p, clusters = np.log(p_z), np.arange(150) // 2
    quantile = quantiles(log_p, clusters, SURE)
    for share in SHARES:
        for p in (0.5, 0.9):
            needed = sorted(brute_queries(value, p) for value in p_z)
            result = quantile.samples(share, p, SURE)
            if share * 150 < 1:
                assert result is None
                continue
            assert result is not None
            assert result.value == needed[int(np.ceil(share * 150)) - 1]
            assert result.low is not None
            assert result.high is not None
            assert result.low <= result.value <= result.high


def test_what_no_number_of_samples_brings_out_is_no_number() -> None:
    log_p = np.array([-1.0, -np.inf, -np.inf, -np.inf])
    quantile = quantiles(log_p, np.arange(4), SURE)
    result = quantile.samples(0.5, 0.5, SURE)
    assert result is not None
    assert result.value is None
    assert quantile.samples(0.01, 0.5, SURE) is None  # less than one window


def test_the_curves_count_the_windows_that_the_formula_counts() -> None:
    data, _ = two_attacks(80, 4)
    log_p = -8 * np.random.default_rng(5).random(80)
    data.rows["log_p_z_none"] = log_p
    piece = sweep_sampling(View({"data": data}, SURE), ("none",), ScoreSettings())
    rows = {row[2]: row[3:] for row in piece.tables[0].rows}
    for n in (1, 10, 100, 1000):
        came_out = 1 - (1 - np.exp(log_p)) ** n
        for p, cell in zip(PROBABILITIES, rows[n], strict=True):
            assert isinstance(cell, Estimate)
            assert cell.value == pytest.approx((came_out >= p).mean())


def test_a_trend_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(6)
    exact, values = rng.random(60) < 0.3, rng.integers(1, 5, 60).astype(float)
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0 for a in values[exact] for b in values[~exact]
    ]
    result = trend(exact, values, np.arange(60), SURE)
    assert result.value == pytest.approx(np.mean(pairs))
    assert trend(np.zeros(60, dtype=bool), values, np.arange(60), SURE).value is None


def test_a_trend_of_few_extracted_has_no_verdict() -> None:
    dup = np.arange(200) % 4
    data, _ = two_attacks(200, 7, dup=[str(value) for value in dup])
    exact = (dup == 3) & (np.arange(200) < 36)  # nine of them
    data.rows["exact_none"] = exact.astype(float)
    result = trend(exact, dup.astype(float), data.clusters, SURE)
    assert result.value is not None
    assert result.value > 0.8
    assert result.low is result.high is None
    (finding,) = by_repetitions(data).findings
    assert "too few to tell a trend" in finding
    assert "the plain prefix extracts 0 % (at most" in finding


def test_a_difference_of_four_windows_is_none_where_its_p_value_says_so() -> None:
    sampled = Sampled(np.arange(200), np.arange(200), np.zeros(200, dtype=int), np.array([200]))
    before = np.arange(200) < 10
    hits = np.arange(200) < 14
    change, p = sampled.change(hits, before, SURE), sampled.p_value(hits, before, SURE)
    assert p == pytest.approx(0.125, abs=0.05)
    assert differs_from_zero(change)
    assert not differs_from_zero(change, p)


def test_repetitions_are_read_from_the_column_and_their_rates_are_those_of_its_windows() -> None:
    dup = np.array([1, 2, 4, 8] * 50)
    data, _ = two_attacks(200, 7, dup=[str(value) for value in dup])
    exact = (dup == 8) & (np.arange(200) % 3 > 0)
    data.rows["exact_none"] = exact.astype(float)
    controls, _ = two_attacks(20, 8)
    piece = by_repetitions(data, controls)
    rows = piece.tables[0].rows
    assert [row[0] for row in rows] == ["1", "2", "4", "8", "controls", "trend"]
    values = [row[2].value for row in rows[:4] if isinstance(row[2], Estimate)]
    assert values == pytest.approx([exact[dup == value].mean() for value in (1, 2, 4, 8)])
    assert "the more, the likelier" in piece.findings[0]


def test_a_column_that_is_none_is_refused_and_the_usual_one_may_be_missing() -> None:
    data, _ = two_attacks(30, 7, kind=["a"] * 30)
    with pytest.raises(UsageError, match="--by nope: is not in the tables of the run"):
        repetitions_of(data, "nope")
    with pytest.raises(UsageError, match="no two different numbers"):
        repetitions_of(data, "kind")
    piece = by_repetitions(data)
    assert not piece.tables
    assert "not known" in piece.notes[0]


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=2, max_size=80))
def test_every_window_with_a_number_is_in_one_group(values: list[float]) -> None:
    numbers = np.array(values)
    if np.isfinite(numbers).any():
        groups = groups_of(numbers)
        assert len(groups) <= 12
        counted = np.sum([group.mask for group in groups], axis=0)
        np.testing.assert_array_equal(counted, np.isfinite(numbers))


def test_cells_that_are_no_numbers_are_none() -> None:
    result = numeric(["2", " 3.5 ", "", "x", "inf", "=1"])
    np.testing.assert_array_equal(result, [2, 3.5, *[np.nan] * 4])


def rare(count: int) -> Part:
    data, _ = two_attacks(count, 11, cluster=np.arange(count) // 3)
    data.rows["exact_none"] = (np.arange(count) % 25 == 0).astype(float)
    data.rows["exact_dynamic"] = (np.arange(count) % 10 == 1).astype(float)
    return Part(data.ids, data.rows, ("none", "dynamic"))


def test_rates_of_windows_drawn_by_kind_are_those_of_the_whole_file() -> None:
    part = rare(1000)
    truth = np.random.default_rng(12).random(1000) < np.where(part.extracted, 0.8, 0.04)
    result, held = [], 0
    for seed in range(100):
        sampled = sample_windows(part, 300, np.random.default_rng(seed))
        assert len(sampled.rows) == 300
        assert sampled.weights.sum() == pytest.approx(1000)
        assert part.extracted[sampled.rows].sum() == 40  # all that there are
        rate = sampled.rate(truth[sampled.rows], SURE)
        assert rate.value is not None
        assert rate.low is not None
        assert rate.high is not None
        result.append(rate.value)
        held += rate.low <= truth.mean() <= rate.high
    assert np.mean(result) == pytest.approx(truth.mean(), abs=0.004)
    assert held >= 95


def test_all_windows_are_taken_where_they_are_few_enough() -> None:
    part = rare(100)
    sampled = sample_windows(part, 100, np.random.default_rng(0))
    assert sampled.is_all
    assert sampled.rate(part.extracted, SURE) == SURE.rate(part.extracted, part.clusters)


def test_kinds_of_which_there_are_many_leave_room_for_others() -> None:
    part = rare(900)
    part.rows["exact_none"] = (np.arange(900) < 800).astype(float)
    part.rows["exact_dynamic"] = 0.0
    sampled = sample_windows(part, 300, np.random.default_rng(0))
    assert part.extracted[sampled.rows].sum() == 200  # the others are 100, all taken
    every = sample_windows(
        Part(part.ids, part.rows.assign(exact_none=1.0), ("none",)), 300, np.random.default_rng(0)
    )
    assert len(every.rows) == 300
    assert every.rate(np.ones(300, dtype=bool), SURE).value == 1


def test_nothing_extracted_of_those_drawn_leaves_a_bound_and_no_more() -> None:
    sampled = Sampled(np.arange(40), np.arange(40), np.repeat([0, 1], 20), np.array([20, 200]))
    rate = sampled.rate(np.zeros(40, dtype=bool), SURE)
    assert rate.value == 0
    assert rate.low == 0
    assert rate.high is not None
    assert 0.1 < rate.high < 0.25  # 0 of 20 are at most 16.8 %


@pytest.mark.parametrize("case", ["nothing", "everything", "one cluster", "one window"])
def test_odd_runs_are_diagnosed_all_the_same(case: str) -> None:
    count = 1 if case == "one window" else 12
    ids = random_ids(count, 8 + S, 2)
    continuations = ids[:, -S:] if case == "everything" else ids[:, -S:] + 1
    columns = {"cluster": np.zeros(count, dtype=np.int64)} if case == "one cluster" else {}
    subject = make_subject(make_part(ids, {"none": continuations}, S, **columns))
    given_ = SweepSettings(run=subject.run.folder, prefix_lengths=(2, 4, 50))
    result = diagnose("sweep", subject, given_, Silent())
    assert result.notes[0].startswith("The run had no controls")
    rows = by_name(result, "prefix-length")
    assert [row[0] for row in rows] == [2, 4, 8]
    assert rows[-1][1].value == (1.0 if case == "everything" else 0.0)
    assert rows[0][1].value == 0  # the model knows nothing
    assert all(len(row) == len(table.columns) for table in result.tables for row in table.rows)
    assert "nan" not in " ".join([*result.findings, *result.notes])
