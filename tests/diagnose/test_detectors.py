"""Detectors against plain computations, and without weights against `score.resample`."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from estimates import ends, known, width

from memaudit.diagnose.latent.detectors import GRID, Labelled, gap, judge
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples

TOP, RESAMPLES = 10, Resamples(0.95, 200, 0)


def labelled(count: int, seed: int, weights: float = 1.0) -> tuple[Labelled, np.ndarray]:
    """Positives score one higher; whole numbers, so that there are ties."""
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.3
    scores = np.round(rng.normal(size=count) * 2 + 2 * positive)
    windows = Labelled(positive, rng.integers(0, count // 2, count), np.full(count, weights))
    return windows, scores


def test_the_area_is_that_of_all_pairs_and_the_interval_that_of_the_other_bootstrap() -> None:
    windows, scores = labelled(120, 0)
    detector = judge({"one": scores}, windows, TOP, RESAMPLES)["one"]
    high, low = scores[windows.positive][:, None], scores[~windows.positive][None]
    assert detector.auc.value == pytest.approx(((high > low) + (high == low) / 2).mean())
    other = RESAMPLES.auc(scores, windows.positive, windows.clusters)
    assert (detector.auc.low, detector.auc.high) == pytest.approx((other.low, other.high))


def test_precision_is_its_expectation_over_the_order_of_equals() -> None:
    windows, scores = labelled(120, 1)
    detector = judge({"one": scores}, windows, TOP, RESAMPLES)["one"]
    orders = (np.random.default_rng(number).permutation(120) for number in range(400))
    shares = [
        windows.positive[order][np.argsort(-scores[order], kind="stable")[:10]].mean()
        for order in orders
    ]
    assert detector.precision.value == pytest.approx(np.mean(shares), abs=0.02)
    low, high = ends(detector.precision)
    assert low < known(detector.precision.value) < high


def test_what_is_found_lies_above_a_threshold_that_few_negatives_pass() -> None:
    windows, scores = labelled(1000, 2)
    scores += np.random.default_rng(0).random(1000) / 10  # no ties
    detector = judge({"one": scores}, windows, TOP, RESAMPLES)["one"]
    negatives = scores[~windows.positive]
    threshold = np.quantile(negatives, 0.99)
    assert detector.recall.value == pytest.approx(
        (scores[windows.positive] > threshold).mean(), abs=0.01
    )
    assert detector.curve[-1].value == 1
    assert GRID[-1] == 1
    equal = judge({"one": np.zeros(1000)}, windows, TOP, RESAMPLES)["one"]
    assert equal.recall.value == pytest.approx(0.01)
    assert equal.auc.value == 0.5


def test_windows_that_stand_for_several_give_the_precision_of_all() -> None:
    """Every fifth negative is read, and represents five."""
    windows, scores = labelled(4000, 3)
    rules = (300, Resamples(0.95, 100, 1))
    whole = judge({"one": scores}, windows, *rules)["one"]
    some = windows.positive | (np.arange(4000) % 5 == 0)
    part = Labelled(
        windows.positive[some], windows.clusters[some], np.where(windows.positive, 1.0, 5.0)[some]
    )
    assert part.base_rate == pytest.approx(windows.base_rate, abs=0.01)
    few = judge({"one": scores[some]}, part, *rules)["one"]
    assert few.precision.value == pytest.approx(whole.precision.value, abs=0.06)
    assert few.auc.value == pytest.approx(whole.auc.value, abs=0.02)
    plain = Labelled(part.positive, part.clusters, np.ones(some.sum()))
    wrong = judge({"one": scores[some]}, plain, *rules)["one"]
    assert known(wrong.precision.value) > known(whole.precision.value) + 0.1


def test_a_gap_is_paired_and_shuffled_labels_are_found_by_chance() -> None:
    windows, scores = labelled(1500, 4)
    rng = np.random.default_rng(5)
    near = scores + rng.normal(size=1500) * 0.05
    detector = judge(
        {"one": scores, "near": near, "chance": rng.random(1500)}, windows, TOP, RESAMPLES
    )
    same = gap(detector["one"], detector["one"], 0.95)
    assert same.value == 0
    assert (same.low, same.high) == (0, 0)
    paired = gap(detector["one"], detector["near"], 0.95)
    alone = detector["one"].auc
    assert width(paired) < width(alone) / 3
    assert known(gap(detector["one"], detector["chance"], 0.95).low) > 0.1
    shuffled = Labelled(rng.permutation(windows.positive), windows.clusters, windows.weights)
    by_chance = judge({"one": scores}, shuffled, TOP, RESAMPLES)["one"]
    low, high = ends(by_chance.auc)
    assert low < 0.5 < high
    assert abs(known(by_chance.auc.value) - 0.5) < 0.05 < known(alone.value) - 0.5


def test_where_all_agree_the_interval_is_no_point() -> None:
    """50 positives of 25 documents, all above every negative, or all below."""
    positive = np.arange(200) < 50
    windows = Labelled(positive, np.arange(200) // 2, np.ones(200))
    exact = 0.025 ** (1 / 25)
    above = judge({"one": positive.astype(float)}, windows, TOP, RESAMPLES)["one"]
    assert astuple(above.auc) == (1, pytest.approx(exact), 1)
    assert astuple(above.recall) == (1, pytest.approx(exact), 1)
    assert above.curve[-1] == Estimate(1, 1, 1)
    below = judge({"one": -positive.astype(float)}, windows, TOP, RESAMPLES)["one"]
    assert astuple(below.auc) == (0, 0, pytest.approx(1 - exact))
    assert astuple(below.recall) == (0, 0, pytest.approx(1 - exact))
    for detector in (above, below):
        limits = np.array([(point.low, point.high) for point in detector.curve])
        assert (np.diff(limits, axis=0) >= 0).all(), "a curve that only rises has ends that do"


def test_infinite_scores_are_ranked_and_nan_is_refused() -> None:
    windows = Labelled(np.array([True, False, True, False]), np.arange(4), np.ones(4))
    scores = np.array([np.inf, -np.inf, 1.0, -np.inf])
    assert judge({"one": scores}, windows, TOP, RESAMPLES)["one"].auc.value == 1
    with pytest.raises(ValueError, match="NaN"):
        judge({"one": np.full(4, np.nan)}, windows, TOP, RESAMPLES)
