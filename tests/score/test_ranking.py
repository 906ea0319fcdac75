"""Rankings by hand, and weighted windows against the same windows repeated."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from memaudit.score.ranking import Ranking

SCORES = np.array([9, 8, 7, 7, 5, 4, 3, 2, 1, -np.inf])
POSITIVE = np.array([1, 0, 1, 0, 1, 0, 0, 1, 0, 0], dtype=bool)


def test_figures_by_hand() -> None:
    """Of the two windows at 7 either comes first with a chance of one half."""
    ranking = Ranking.of(SCORES, POSITIVE, np.ones((1, 10)))
    finite = np.maximum(SCORES, 0)
    assert ranking.area()[0] == pytest.approx(roc_auc_score(POSITIVE, finite))
    assert ranking.average_precision()[0] == pytest.approx(
        average_precision_score(POSITIVE, finite)
    )
    assert ranking.precision(3)[0] == pytest.approx(1.5 / 3)
    assert ranking.recall(np.array([0.1, 0.3, 0.5, 1.0]))[0] == pytest.approx(
        [0.25, 0.375, 0.75, 1]
    )
    assert ranking.needed(np.array([0.25, 0.5, 1.0]))[0] == pytest.approx([0.1, 0.4, 0.8])
    assert ranking.roc(np.array([1 / 6, 1.0]))[0] == pytest.approx([0.25, 1])


def test_a_weight_is_as_many_windows() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.4
    weights = rng.integers(0, 4, (3, 40))
    together = Ranking.of(scores, positive, weights.astype(np.float64))
    for row, times in enumerate(weights):
        again, kinds = np.repeat(scores, times), np.repeat(positive, times)
        assert together.area()[row] == pytest.approx(roc_auc_score(kinds, again))
        alone = Ranking.of(again, kinds, np.ones((1, len(again))))
        shares = np.array([0.05, 0.3, 0.7])
        assert together.recall(shares)[row] == pytest.approx(alone.recall(shares)[0])
        assert together.roc(shares)[row] == pytest.approx(alone.roc(shares)[0])
        assert together.precision(7)[row] == pytest.approx(alone.precision(7)[0])


def test_a_share_of_nothing_is_no_figure() -> None:
    nothing = Ranking.of(SCORES, np.zeros(10, dtype=bool), np.ones((1, 10)))
    assert np.isnan([nothing.area()[0], nothing.average_precision()[0]]).all()
    assert np.isnan(nothing.recall(np.array([0.5]))).all()
    assert np.isnan(nothing.needed(np.array([0.5]))).all()
    every = Ranking.of(SCORES, np.ones(10, dtype=bool), np.ones((1, 10)))
    assert np.isnan([every.area()[0], every.roc(np.array([0.5]))[0, 0]]).all()
    with pytest.raises(ValueError, match="NaN"):
        Ranking.of(np.array([np.nan]), np.ones(1, dtype=bool), np.ones((1, 1)))
