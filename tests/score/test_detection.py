"""AUC against counting by hand, and the cover of the intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from memaudit.score.detection import roc_auc

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


def test_too_few_clusters_of_a_kind_say_nothing() -> None:
    scores = np.arange(300.0)
    few = np.isin(np.arange(300), np.arange(0, 300, 33)[:9])
    assert roc_auc(scores, few, np.arange(300), rng=rng(), **SURE).interval == (0.0, 1.0)
    many = few | (np.arange(300) == 150)
    assert roc_auc(scores, many, np.arange(300), rng=rng(), **SURE).interval != (0.0, 1.0)
    assert roc_auc(scores, ~few, np.arange(300), rng=rng(), **SURE).interval == (0.0, 1.0)


def test_what_is_told_apart_without_an_error_has_a_bound() -> None:
    scores = np.arange(40.0)
    found = roc_auc(scores, scores >= 20, np.arange(40), rng=rng(), **SURE)
    assert found.value == 1
    assert found.interval == pytest.approx((0.025 ** (1 / 20), 1))
    found = roc_auc(-scores, scores >= 20, np.arange(40), rng=rng(), **SURE)
    assert found.value == 0
    assert found.interval == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
