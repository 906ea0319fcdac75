"""Detectors judged on the same resamples: against figures worked out plainly, and without weights
against what `score.resample` says.
"""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from estimates import ends, known, width

from memaudit.diagnose.latent.detected import GRID, Crowd, gap, judge
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples

TOP, RESAMPLES = 10, Resamples(0.95, 200, 0)


def crowd(count: int, seed: int, weights: float = 1.0) -> tuple[Crowd, np.ndarray]:
    """Positives score one higher; whole numbers, so that there are ties."""
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.3
    scores = np.round(rng.normal(size=count) * 2 + 2 * positive)
    made = Crowd(positive, rng.integers(0, count // 2, count), np.full(count, weights))
    return made, scores


def test_the_area_is_that_of_all_pairs_and_the_interval_that_of_the_other_bootstrap() -> None:
    made, scores = crowd(120, 0)
    found = judge({"one": scores}, made, TOP, RESAMPLES)["one"]
    high, low = scores[made.positive][:, None], scores[~made.positive][None]
    assert found.auc.value == pytest.approx(((high > low) + (high == low) / 2).mean())
    other = RESAMPLES.auc(scores, made.positive, made.clusters)
    assert (found.auc.low, found.auc.high) == pytest.approx((other.low, other.high))


def test_precision_is_its_expectation_over_the_order_of_equals() -> None:
    made, scores = crowd(120, 1)
    found = judge({"one": scores}, made, TOP, RESAMPLES)["one"]
    orders = (np.random.default_rng(number).permutation(120) for number in range(400))
    drawn = [
        made.positive[order][np.argsort(-scores[order], kind="stable")[:10]].mean()
        for order in orders
    ]
    assert found.precision.value == pytest.approx(np.mean(drawn), abs=0.02)
    low, high = ends(found.precision)
    assert low < known(found.precision.value) < high


def test_what_is_found_lies_above_a_threshold_that_few_negatives_pass() -> None:
    made, scores = crowd(1000, 2)
    scores += np.random.default_rng(0).random(1000) / 10  # no ties
    found = judge({"one": scores}, made, TOP, RESAMPLES)["one"]
    negatives = scores[~made.positive]
    threshold = np.quantile(negatives, 0.99)
    assert found.found.value == pytest.approx((scores[made.positive] > threshold).mean(), abs=0.01)
    assert found.curve[-1].value == 1
    assert GRID[-1] == 1
    equal = judge({"one": np.zeros(1000)}, made, TOP, RESAMPLES)["one"]
    assert equal.found.value == pytest.approx(0.01)
    assert equal.auc.value == 0.5


def test_windows_that_stand_for_several_give_the_precision_of_all() -> None:
    """Every fifth negative is looked at, and stands for five."""
    made, scores = crowd(4000, 3)
    rules = (300, Resamples(0.95, 100, 1))
    whole = judge({"one": scores}, made, *rules)["one"]
    some = made.positive | (np.arange(4000) % 5 == 0)
    part = Crowd(made.positive[some], made.clusters[some], np.where(made.positive, 1.0, 5.0)[some])
    assert part.base_rate == pytest.approx(made.base_rate, abs=0.01)
    few = judge({"one": scores[some]}, part, *rules)["one"]
    assert few.precision.value == pytest.approx(whole.precision.value, abs=0.06)
    assert few.auc.value == pytest.approx(whole.auc.value, abs=0.02)
    plain = Crowd(part.positive, part.clusters, np.ones(some.sum()))
    wrong = judge({"one": scores[some]}, plain, *rules)["one"]
    assert known(wrong.precision.value) > known(whole.precision.value) + 0.1


def test_a_gap_is_paired_and_shuffled_labels_are_found_by_chance() -> None:
    made, scores = crowd(1500, 4)
    rng = np.random.default_rng(5)
    near = scores + rng.normal(size=1500) * 0.05
    found = judge({"one": scores, "near": near, "chance": rng.random(1500)}, made, TOP, RESAMPLES)
    same = gap(found["one"], found["one"], 0.95)
    assert same.value == 0
    assert (same.low, same.high) == (0, 0)
    apart = gap(found["one"], found["near"], 0.95)
    alone = found["one"].auc
    assert width(apart) < width(alone) / 3
    assert known(gap(found["one"], found["chance"], 0.95).low) > 0.1
    shuffled = Crowd(rng.permutation(made.positive), made.clusters, made.weights)
    by_chance = judge({"one": scores}, shuffled, TOP, RESAMPLES)["one"]
    low, high = ends(by_chance.auc)
    assert low < 0.5 < high
    assert abs(known(by_chance.auc.value) - 0.5) < 0.05 < known(alone.value) - 0.5


def test_where_all_agree_the_interval_is_no_point() -> None:
    """50 positives of 25 documents, all above every negative, or all below."""
    positive = np.arange(200) < 50
    made = Crowd(positive, np.arange(200) // 2, np.ones(200))
    exact = 0.025 ** (1 / 25)
    above = judge({"one": positive.astype(float)}, made, TOP, RESAMPLES)["one"]
    assert astuple(above.auc) == (1, pytest.approx(exact), 1)
    assert astuple(above.found) == (1, pytest.approx(exact), 1)
    assert above.curve[-1] == Estimate(1, 1, 1)
    below = judge({"one": -positive.astype(float)}, made, TOP, RESAMPLES)["one"]
    assert astuple(below.auc) == (0, 0, pytest.approx(1 - exact))
    assert astuple(below.found) == (0, 0, pytest.approx(1 - exact))
    for found in (above, below):
        limits = np.array([(one.low, one.high) for one in found.curve])
        assert (np.diff(limits, axis=0) >= 0).all(), "a curve that only rises has ends that do"


def test_infinite_scores_are_ranked_and_nan_is_refused() -> None:
    made = Crowd(np.array([True, False, True, False]), np.arange(4), np.ones(4))
    scores = np.array([np.inf, -np.inf, 1.0, -np.inf])
    assert judge({"one": scores}, made, TOP, RESAMPLES)["one"].auc.value == 1
    with pytest.raises(ValueError, match="NaN"):
        judge({"one": np.full(4, np.nan)}, made, TOP, RESAMPLES)
