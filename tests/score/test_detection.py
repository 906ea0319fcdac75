"""AUC, ROC and precision against counting by hand, and the cover of their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from memaudit.score.detection import precision_at, roc_auc, roc_curve

SURE = {"confidence": 0.95, "resamples": 400}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_what_counting_pairs_gives(seed: int) -> None:
    draw = rng(seed)
    scores = draw.integers(0, 8, 60).astype(float)
    scores[0] = -np.inf
    positive = draw.random(60) < 0.3
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    found = roc_auc(scores, positive, np.arange(60), rng=rng(), **SURE)
    assert found.value == pytest.approx(np.mean(pairs))
    finite = np.maximum(scores, -99)
    assert found.value == pytest.approx(roc_auc_score(positive, finite))
    assert found.interval.low <= found.value <= found.interval.high


def test_auc_of_one_kind_only_is_unknown() -> None:
    found = roc_auc(np.arange(4.0), np.ones(4, dtype=bool), np.arange(4), rng=rng(), **SURE)
    assert np.isnan(found.value)
    assert found.interval == (0.0, 1.0)
    with pytest.raises(ValueError, match="NaN"):
        roc_auc(np.array([np.nan]), np.ones(1, dtype=bool), np.arange(1), rng=rng(), **SURE)


def test_auc_intervals_cover_and_know_clusters() -> None:
    """Ten copies of each window are no more evidence than one."""
    held, widths = 0, []
    for seed in range(100):
        draw = rng(seed)
        positive = np.repeat(draw.random(60) < 0.5, 10)
        scores = np.repeat(draw.normal(size=60), 10)
        clusters = np.repeat(np.arange(60), 10)
        low, high = roc_auc(scores, positive, clusters, rng=draw, **SURE).interval
        held += low <= 0.5 <= high
        widths.append(high - low)
        apart = roc_auc(scores, positive, np.arange(600), rng=draw, **SURE).interval
        assert high - low > 2 * (apart.high - apart.low)
    assert held >= 88


def test_roc_curve() -> None:
    draw = rng(1)
    scores, positive = draw.integers(0, 5, 40).astype(float), draw.random(40) < 0.4
    found = roc_curve(scores, positive)
    false, true, _ = sklearn_roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(found.false_positives, false)
    np.testing.assert_allclose(found.true_positives, true)


def test_precision_counts_the_first_k() -> None:
    scores = np.array([5.0, 4, 3, 2, 1])
    positive = np.array([True, True, False, False, True])
    found = precision_at(3, scores, positive, np.arange(5), rng=rng(), **SURE)
    assert found.value == pytest.approx(2 / 3)
    assert found.interval.low < 0.1
    assert found.interval.high > 0.99
    all_of_them = precision_at(100, scores, positive, np.arange(5), rng=rng(), **SURE)
    assert all_of_them.value == pytest.approx(3 / 5)


def test_of_equal_scores_it_is_drawn_by_lot_which_are_first() -> None:
    positive = np.arange(1000) < 500  # all in front, which must not help them
    values = [
        precision_at(100, np.zeros(1000), positive, np.arange(1000), rng=rng(seed), **SURE).value
        for seed in range(20)
    ]
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)
