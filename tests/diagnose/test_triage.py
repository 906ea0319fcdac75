"""Predictors on figures whose truth is known, and the gains of triage."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from memaudit.diagnose.probes import can_fit
from memaudit.diagnose.signals.triage import MAX_STATE, Features, predict
from memaudit.diagnose.signals.triage_report import area_above, gains, rising
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats, Ints

NO_WINDOWS = Features(np.empty((0, 3)))


def resamples(number: int = 200, seed: int = 0) -> Resamples:
    return Resamples(0.95, number, seed)


def area(risk: Floats, labels: Bools) -> float:
    return float(roc_auc_score(labels, risk))


def predicted_risk(scalars: Floats, labels: Bools, clusters: Ints, seed: int = 0) -> Floats:
    other = Features(np.empty((0, scalars.shape[1])))
    return predict(Features(scalars), labels, clusters, other, np.random.default_rng(seed)).risk


def test_a_signal_is_learnt_and_chance_is_not() -> None:
    rng = np.random.default_rng(0)
    scalars = rng.standard_normal((600, 3))
    labels = scalars[:, 1] > 0.8
    clusters = np.arange(600)
    assert area(predicted_risk(scalars, labels, clusters), labels) > 0.99
    permuted = rng.permutation(labels)
    assert area(predicted_risk(scalars, permuted, clusters), permuted) == pytest.approx(
        0.5, abs=0.08
    )


def test_near_duplicates_are_never_on_both_sides() -> None:
    """Random labels for each cluster of copies: nothing can be learnt across clusters.

    With the windows declared independent, their own copies predict them well.
    """
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(200), 4)
    scalars = rng.standard_normal((200, 150))[clusters]
    labels = (rng.random(200) < 0.5)[clusters]
    assert area(predicted_risk(scalars, labels, clusters), labels) == pytest.approx(0.5, abs=0.1)
    assert area(predicted_risk(scalars, labels, np.arange(800)), labels) > 0.85


def test_states_are_used_and_wide_ones_projected() -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(300) < 100
    states = rng.standard_normal((300, 2 * MAX_STATE)).astype(np.float32)
    states[labels] += 1.5
    features = Features(rng.standard_normal((300, 3)), states)
    assert features.joined(rng).shape == (300, 3 + MAX_STATE)
    other = Features(features.scalars[:2], states[[0, 299]])
    predictions = predict(features, labels, np.arange(300), other, rng)
    assert area(predictions.risk, labels) > 0.99
    assert predictions.elsewhere[0] > 0.5 > predictions.elsewhere[1]


def test_a_large_cluster_does_not_outweigh_many_small_ones() -> None:
    """One cluster contradicts all other clusters, in as many windows."""
    rng = np.random.default_rng(3)
    clusters = np.concatenate([np.arange(200), np.full(200, 200)])
    scalars = rng.standard_normal((400, 1)).clip(-1, 1)
    labels = np.where(clusters < 200, scalars[:, 0] > 0.5, scalars[:, 0] < -0.5)
    risk = predicted_risk(scalars, labels, clusters)
    assert area(risk[:200], labels[:200]) > 0.95


def test_predictors_take_twenty_clusters_of_either_kind() -> None:
    labels = np.arange(60) < 20
    assert can_fit(labels, ~labels, np.arange(60))
    few = np.where(labels, np.arange(60) % 19, np.arange(60))
    assert not can_fit(labels, ~labels, few)
    assert not can_fit(~labels, labels, few)
    with pytest.raises(ValueError, match="fewer than 20 clusters"):
        predict(Features(np.zeros((5, 3))), labels[:5], np.arange(5), NO_WINDOWS, resamples().rng())


def test_gains_by_hand() -> None:
    """Ten windows, four positives; two of equal risk at the edge of the riskiest 30 %."""
    risk = np.array([9, 8, 7, 7, 5, 4, 3, 2, 1, 0], dtype=np.float64)
    positive = np.array([1, 0, 1, 0, 1, 0, 0, 1, 0, 0], dtype=bool)
    gained = gains(
        risk,
        positive,
        np.arange(10),
        shares=np.array([0.1, 0.3, 0.5, 1.0]),
        reaches=np.array([0.25, 0.5, 0.75, 1.0]),
        resamples=resamples(),
    )
    # One of the two at 7 is among the first three; it is positive with a chance of one half.
    assert [estimate.value for estimate in gained.reached] == pytest.approx(
        [0.25, 0.375, 0.75, 1.0]
    )
    assert [estimate.value for estimate in gained.precision] == pytest.approx([1.0, 0.5, 0.6, 0.4])
    assert [estimate.value for estimate in gained.needed] == pytest.approx([0.1, 0.4, 0.5, 0.8])
    assert gained.area.value == pytest.approx(roc_auc_score(positive, risk))
    assert gained.average_precision.value == pytest.approx(average_precision_score(positive, risk))
    assert gained.reached[3].low == 1  # all windows hold all


def test_bounds_from_below_never_fall() -> None:
    """Any order of shares: more windows hold no fewer positives, and all windows hold all."""
    estimates = [Estimate(1, 0.6, 1), Estimate(0.9, 0.8, 0.95), Estimate(1, 0.9, 1)]
    bounded = rising(estimates, np.array([0.2, 0.1, 1.0]))
    assert bounded == [Estimate(1, 0.8, 1), Estimate(0.9, 0.8, 0.95), Estimate(1, 1, 1)]


def test_gains_of_a_constant_are_chance() -> None:
    positive = np.arange(200) % 5 == 0
    shares = np.array([0.01, 0.1, 0.5])
    gained = gains(
        np.zeros(200),
        positive,
        np.arange(200),
        shares=shares,
        reaches=shares,
        resamples=resamples(),
    )
    for estimate, share in zip([*gained.reached, *gained.needed], [*shares, *shares], strict=True):
        assert estimate.value == pytest.approx(share)
        assert estimate.low == pytest.approx(share)  # whatever is drawn
    assert gained.area.value == 0.5


def test_intervals_know_clusters() -> None:
    """Ten copies of each window carry no more information than one."""
    rng = np.random.default_rng(4)
    positive = rng.random(80) < 0.4
    risk = positive + rng.standard_normal(80)

    def width(copies: int, clusters: Ints) -> float:
        area = gains(
            np.repeat(risk, copies),
            np.repeat(positive, copies),
            clusters,
            shares=np.array([0.2]),
            reaches=np.array([0.5]),
            resamples=resamples(400),
        ).area
        assert area.low is not None
        assert area.high is not None
        return area.high - area.low

    single = width(1, np.arange(80))
    assert width(10, np.repeat(np.arange(80), 10)) == pytest.approx(single, rel=0.15)
    assert width(10, np.arange(800)) < 0.5 * single


def test_a_rival_is_compared_on_the_same_windows() -> None:
    rng = np.random.default_rng(5)
    positive = rng.random(200) < 0.3
    weak = positive + 3 * rng.standard_normal(200)
    strong = positive + 0.5 * rng.standard_normal(200)
    same = area_above(weak, weak, positive, np.arange(200), resamples())
    assert (same.value, same.low, same.high) == (0, 0, 0)
    above = area_above(strong, weak, positive, np.arange(200), resamples())
    assert above.value == pytest.approx(area(strong, positive) - area(weak, positive))
    assert above.low is not None
    assert above.low > 0
