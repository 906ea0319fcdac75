from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from memaudit.config.settings import AttackName, ScoreSettings
from memaudit.score.samples import Arm, Grouping
from memaudit.score.sampling import queries
from memaudit.score.scores import WindowScores, best_edit_similarity, best_log_p_z, score_windows
from memaudit.score.stats import Ints
from memaudit.score.summary import attack_rng, summarise, summarise_any

SETTINGS = ScoreSettings(bootstrap=200)


@st.composite
def extracted(draw):
    """Outputs with early ends, and suffixes, over so few tokens that they often agree."""
    shape = draw(array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))
    output = draw(arrays(np.int32, shape, elements=st.integers(0, 3)))
    ends = draw(arrays(np.int64, shape[0], elements=st.integers(0, shape[1])))
    output[np.arange(shape[1]) >= ends[:, None]] = -1
    return output, draw(arrays(np.int32, shape, elements=st.integers(0, 3)))


def score(output, suffix) -> WindowScores:
    output, suffix = np.asarray(output, dtype=np.int32), np.asarray(suffix, dtype=np.int32)
    n = len(suffix)
    return score_windows(output, suffix, np.arange(n) / 2, -np.arange(n) / 3)


def hits(exact, fractional=None) -> WindowScores:
    """Scores of which only ``exact`` and ``fractional`` matter."""
    exact = np.asarray(exact, dtype=bool)
    zeros = np.zeros(len(exact))
    whole = zeros.astype(np.int64)
    share = exact.astype(float) if fractional is None else np.asarray(fractional)
    return WindowScores(exact, share, whole, whole, zeros, zeros + 2, zeros)


def slow_longest_run(output, suffix) -> int:
    length = len(suffix)
    return max(
        (
            size
            for size in range(1, length + 1)
            for i in range(length - size + 1)
            for j in range(length - size + 1)
            if output[i : i + size] == suffix[j : j + size]
        ),
        default=0,
    )


def slow_distance(a, b) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@given(extracted())
def test_scores_are_what_the_slow_way_says(pair):
    output, suffix = pair
    scores = score(output, suffix)
    length = suffix.shape[1]
    for i, (said, true) in enumerate(zip(output.tolist(), suffix.tolist(), strict=True)):
        equal = [x == y for x, y in zip(said, true, strict=True)]
        assert scores.exact[i] == all(equal)
        assert scores.fractional[i] == sum(equal) / length
        assert scores.matched[i] == next((t for t, e in enumerate(equal) if not e), length)
        assert scores.longest_run[i] == slow_longest_run(said, true)
        spoken = [token for token in said if token >= 0]
        similar = 1 - slow_distance(spoken, true) / length
        assert scores.edit_similarity[i] == pytest.approx(similar)


@given(extracted())
def test_scores_of_a_window_stand_in_order(pair):
    scores = score(*pair)
    length = pair[1].shape[1]
    assert (scores.matched <= scores.fractional * length + 1e-9).all()
    assert (scores.matched <= scores.longest_run).all()
    assert (scores.fractional <= scores.edit_similarity + 1e-9).all()
    assert (scores.exact == (scores.edit_similarity == 1)).all()
    assert (scores.exact == (scores.longest_run == length)).all()


def test_windows_are_scored_alike_whatever_the_chunk(monkeypatch):
    rng = np.random.default_rng(0)
    output, suffix = rng.integers(-1, 3, (2, 50, 7))
    suffix = np.abs(suffix)
    at_once = score(output, suffix)
    monkeypatch.setattr("memaudit.score.scores._CHUNK_CELLS", 20)
    assert_same(score(output, suffix), at_once)


def test_take_picks_windows_by_number_and_by_mask():
    scores = score([[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 9], [9, 6]])
    by_number, by_mask = scores.take(np.array([2, 0])), scores.take(scores.exact)
    assert by_number.matched.tolist() == [0, 2]
    assert by_number.suffix_nll.tolist() == [1, 0]
    assert len(by_mask) == 1
    assert by_mask.exact.all()


def test_no_windows_have_no_scores():
    assert len(score(np.empty((0, 5)), np.empty((0, 5)))) == 0


@pytest.mark.parametrize(
    ("output", "suffix", "nll"),
    [((3, 4), (3, 5), 3), ((3, 0), (3, 0), 3), ((3, 4), (3, 4), 2)],
)
def test_shapes_that_do_not_agree_are_refused(output, suffix, nll):
    with pytest.raises(ValueError, match="for"):
        score_windows(np.zeros(output, int), np.zeros(suffix, int), np.zeros(nll), np.zeros(nll))


def test_the_room_imports_no_torch():
    code = "import sys, memaudit.gate.thresholds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.floats(0.001, 0.999), st.floats(1e-4, 0.999))
def test_queries_are_the_least_number_that_reaches_p(p, p_z):
    n = queries(np.array([math.log(p_z)]), p)[0]
    assert n == int(n) >= 1
    assert 1 - (1 - p_z) ** n >= p * (1 - 1e-9)
    if n > 1:
        assert 1 - (1 - p_z) ** (n - 1) < p * (1 + 1e-9)


def test_queries_do_not_count_a_rounding_error_as_a_query():
    assert queries(np.log([0.5, 0.1, 1.0, 0.7]), 0.5).tolist() == [1, 7, 1, 1]
    assert queries(np.log([0.1]), 0.19).tolist() == [2]
    assert queries(np.array([1e-9]), 0.5).tolist() == [1]


def test_queries_keep_their_digits_where_p_z_is_tiny():
    log_p = np.array([-39.0, -41.0, -300.0, -700.0])
    assert queries(log_p, 0.5) == pytest.approx(math.log(2) * np.exp(-log_p), rel=1e-12)


def test_queries_are_endless_where_p_z_is_zero_and_unknown_where_it_is():
    found = queries(np.array([-np.inf, -1e4, np.nan]), 0.5)
    assert found[:2].tolist() == [np.inf, np.inf]
    assert np.isnan(found[2])


def test_best_of_the_attacks():
    first, second = score([[1, 2]], [[1, 3]]), score([[1, 3]], [[1, 3]])
    assert best_edit_similarity({"none": first, "dynamic": second}).tolist() == [1]
    nan = np.array([np.nan])
    copied = score_windows(np.array([[1, 2]]), np.array([[1, 3]]), nan, nan)
    assert best_log_p_z({"copy": copied, "none": first}).tolist() == [0]
    assert np.isnan(best_log_p_z({"copy": copied})).all()


def arm(scores: WindowScores, clusters: Ints) -> Arm:
    """Samples with a window each."""
    return Arm.of(scores, Grouping.one_each(clusters))


def test_summary_counts_what_was_scored():
    data = arm(hits([1, 1, 0, 0], [1, 1, 0.5, 0]), np.arange(4))
    controls = arm(hits([0, 0]), np.arange(2))
    found = summarise(
        "dynamic",
        data,
        SETTINGS,
        np.random.default_rng(0),
        none=arm(hits([1, 0, 0, 0]), np.arange(4)),
        controls=controls,
    )
    assert (found.attack, found.extracted.k, found.extracted.n, found.extracted.estimate) == (
        "dynamic",
        2,
        4,
        0.5,
    )
    assert found.extracted.interval == pytest.approx((0.0676, 0.9324), abs=1e-4)
    assert found.extracted.clustered.low <= 0.5 <= found.extracted.clustered.high
    assert found.fractional == 0.625
    assert found.fractional_interval.low <= 0.625 <= found.fractional_interval.high
    assert found.suffix_nll == 2
    assert found.controls_extracted is not None
    assert (found.controls_extracted.k, found.controls_extracted.n, found.controls_fractional) == (
        0,
        2,
        0,
    )
    assert found.difference is not None
    assert found.difference.estimate == 0.5
    assert found.difference.interval.low < 0 < found.difference.interval.high
    assert found.difference.p_value > 0.05
    assert found.lift is not None
    assert (found.lift.estimate, found.lift.gained, found.lift.lost) == (0.25, 1, 0)
    assert (found.lift.p_value, found.lift.clustered_p_value) == (1, 1)
    assert found.lift.interval.low <= 0.25 <= found.lift.interval.high


def test_any_counts_what_at_least_one_attack_on_the_model_extracts():
    groups = Grouping(np.array([0, 0, 1, 2, 3]), np.ones(5, int), np.ones(5, bool), np.arange(4))
    data: dict[AttackName, Arm] = {
        "none": Arm.of(hits([1, 0, 1, 0, 0]), groups),
        "copy": Arm.of(hits([1, 1, 1, 1, 1]), groups),
        "dynamic": Arm.of(hits([0, 1, 0, 1, 0]), groups),
    }
    controls: dict[AttackName, Arm] = {
        name: arm(hits([name == "copy"] * 2), np.arange(2)) for name in data
    }
    found = summarise_any(data, controls, SETTINGS, 0)
    assert found is not None
    assert (found.extracted.k, found.extracted.n) == (3, 4)
    assert found.exact.k == 2  # no attack gets both windows of the first
    assert found.controls_extracted is not None
    assert (found.controls_extracted.k, found.lift) == (0, None)
    assert found.difference is not None
    assert summarise_any({"copy": data["copy"]}, None, SETTINGS, 0) is None
    alone = summarise_any({"none": data["none"]}, None, SETTINGS, 0)
    assert alone is not None
    rng = attack_rng(0, "none")
    assert alone.extracted == summarise("none", data["none"], SETTINGS, rng).extracted


def test_summary_without_none_and_controls_has_neither():
    found = summarise("none", arm(hits([0]), np.arange(1)), SETTINGS, np.random.default_rng(0))
    assert found.lift is None
    assert found.controls_extracted is None
    assert found.controls_fractional is None
    assert found.difference is None


def test_summary_of_nothing_is_unknown_not_zero():
    empty = arm(hits([]), np.arange(0))
    found = summarise("none", empty, SETTINGS, np.random.default_rng(0), none=empty, controls=empty)
    assert np.isnan([found.extracted.estimate, found.fractional, found.suffix_nll]).all()
    assert (
        found.extracted.interval == found.extracted.clustered == found.fractional_interval == (0, 1)
    )
    assert found.difference is not None
    assert found.difference.interval == (-1, 1)
    assert found.lift is not None
    assert found.lift.interval == (-1, 1)


@pytest.mark.parametrize("seed", range(60))
def test_interval_and_p_value_of_a_lift_say_the_same(seed):
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(12), rng.integers(1, 20, 12))
    each = rng.random((2, 12)) < 0.4 if seed % 2 else np.array([rng.random(12) < 0.5, np.zeros(12)])
    mine, none = (arm(hits(side[clusters]), clusters) for side in each)
    found = summarise("dynamic", mine, SETTINGS, np.random.default_rng(0), none=none).lift
    assert found is not None
    holds_nothing = found.interval.low <= 0 <= found.interval.high
    assert (max(found.p_value, found.clustered_p_value) < 1 - 0.95) == (not holds_nothing)


def test_same_seed_same_summary():
    rng = np.random.default_rng(1)
    data = arm(hits(rng.random(80) < 0.4), rng.integers(0, 20, 80))
    none = arm(hits(rng.random(80) < 0.2), data.clusters)
    made = [summarise("a", data, SETTINGS, np.random.default_rng(7), none=none) for _ in "12"]
    assert made[0] == made[1]


def assert_same(a: WindowScores, b: WindowScores) -> None:
    for name in WindowScores.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
