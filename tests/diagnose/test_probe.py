"""Probes tell what can be told, and nothing where copies alone would let them."""

from __future__ import annotations

import numpy as np
import pytest
from estimates import known
from numpy.typing import NDArray

from memaudit.diagnose.neurons.probing import token_features
from memaudit.diagnose.probes import assign_folds, can_fit, permuted_labels, probe_scores
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Ints

WIDTH = 40


def auc(
    features: NDArray[np.float32], positive: Bools, clusters: Ints, folds: Ints | None = None
) -> float:
    rng = np.random.default_rng(0)
    if folds is None:
        folds = assign_folds(positive, clusters, int(rng.integers(2**31)))
    scores = probe_scores(features, positive, np.ones(len(positive), dtype=bool), folds)
    return known(Resamples(0.95, 10, 0).auc(scores, positive, clusters).value)


def noise(count: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def test_what_is_apart_is_told_apart() -> None:
    features, positive = noise(300), np.arange(300) % 3 == 0
    features[positive, :5] += 5
    assert auc(features, positive, np.arange(300)) == 1.0


def test_noise_is_not() -> None:
    assert 0.4 < auc(noise(600), np.arange(600) % 3 == 0, np.arange(600)) < 0.6


def test_copies_of_a_window_do_not_give_it_away() -> None:
    """Labels by cluster that nothing but the copies themselves could tell."""
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(60), 5)
    features = noise(60)[clusters] + 0.01 * noise(300, seed=3)
    positive = rng.permutation(np.arange(60) % 2 == 0)[clusters]
    folds = assign_folds(positive, clusters, int(rng.integers(2**31)))
    assert all(len(set(folds[clusters == item])) == 1 for item in range(60))
    assert 0.35 < auc(features, positive, clusters) < 0.65
    at_random = rng.integers(5, size=300)
    assert auc(features, positive, clusters, at_random) > 0.8


def test_windows_that_are_scored_only_change_nothing() -> None:
    features, positive = noise(200), np.arange(200) % 2 == 0
    folds, fitted = np.arange(200) % 5, np.arange(200) < 160
    scores = probe_scores(features, positive, fitted, folds)
    other = features.copy()
    other[~fitted] *= -3
    again = probe_scores(other, positive ^ ~fitted, fitted, folds)
    np.testing.assert_array_equal(scores[fitted], again[fitted])
    assert (scores[~fitted] != again[~fitted]).all()


def test_permuted_labels_keep_their_number_and_stay_together() -> None:
    clusters = np.repeat(np.arange(50), 3)
    positive = np.repeat(np.arange(50) < 10, 3)
    permuted = permuted_labels(positive, clusters, np.random.default_rng(0))
    assert permuted.sum() == positive.sum()
    assert (permuted != positive).any()
    assert all(len(set(permuted[clusters == item])) == 1 for item in range(50))


@pytest.mark.parametrize(("positives", "is_enough"), [(19, False), (20, True)])
def test_too_few_clusters_say_nothing(positives: int, is_enough: bool) -> None:
    positive = np.repeat(np.arange(60) < positives, 2)
    assert can_fit(positive, ~positive, np.repeat(np.arange(60), 2)) is is_enough
    assert not can_fit(positive, ~positive, np.repeat([0, 1], 60))


def test_token_features_are_what_they_say() -> None:
    ids = np.array([[5, 5, 6, 5, 7, 7], [5, 8, 8, 9, 9, 9]], dtype=np.int32)
    result = token_features(ids, np.array([0, 1]), 3)
    often, once = np.log(3 / 3), np.log(2 / 3)
    first = [(2 * often + once) / 3, once, 2 / 3, (often + 2 * once) / 3, once, 2 / 3, 1 / 3, once]
    np.testing.assert_allclose(result[0], first, rtol=1e-6)
    assert result[1, 6] == 0
    copies = token_features(np.repeat(ids, [1, 5], axis=0), np.array([0, 1, 1, 1, 1, 1]), 3)
    np.testing.assert_allclose(copies[:2], result)
