"""Predictor of extraction, cross-validated with whole clusters per fold.

Knows figures of windows, labels and cluster numbers as arrays. Knows no model and no ids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memaudit.score.resample import LEAST_FITTED_CLUSTERS, fewest_clusters
from memaudit.score.stats import Bools, Floats, Ints

FOLDS = 5
C = 0.01
"""Inverse strength of the logistic regression's penalty, chosen beforehand. On the testbed, weaker
penalties were overconfident, and boosted trees ranked no better."""
COMPONENTS = 16
"""Principal components of the states that a predictor uses."""
MAX_STATE = 256
"""Largest width of a state before PCA. Wider states are projected at random first, which preserves
distances (Johnson & Lindenstrauss 1984) and learns nothing from the data."""


@dataclass(frozen=True, eq=False)
class Features:
    """Features of N windows that are known before decoding."""

    scalars: Floats
    """(N,F), all finite."""
    states: NDArray[np.float32] | None = None
    """(N,D); None if the predictor uses none."""

    def joined(self, rng: np.random.Generator) -> Floats:
        """(N,F+D'), D' at most 256."""
        if self.states is None:
            return self.scalars
        states = self.states.astype(np.float64)
        if states.shape[1] > MAX_STATE:
            way = rng.standard_normal((states.shape[1], MAX_STATE)) / math.sqrt(MAX_STATE)
            states = states @ way
        return np.concatenate([self.scalars, states], axis=1)


class Predictions(NamedTuple):
    """Predictions for windows that the predictor was not fitted on."""

    risk: Floats
    """(N,) probability of extraction, by the predictor fitted without the window's cluster."""
    elsewhere: Floats
    """(C,) probability for other windows, the mean over the folds' predictors."""


def predict(
    features: Features, labels: Bools, clusters: Ints, other: Features, rng: np.random.Generator
) -> Predictions:
    """Cross-validate logistic regression in five folds, each cluster in one fold.

    A window of a cluster of n weighs 1/sqrt(n): near-duplicates carry much the same information,
    and a few large clusters would dominate. other: windows (C,...) that are only scored.

    Raises ValueError for fewer clusters of either kind than `can_fit` requires.
    """
    if not can_fit(labels, clusters):
        raise ValueError(f"fewer than {LEAST_FITTED_CLUSTERS} clusters of a kind")
    from sklearn.model_selection import StratifiedGroupKFold

    seed, start = (int(number) for number in rng.integers(1 << 31, size=2))
    table, other_table = (given.joined(np.random.default_rng(start)) for given in (features, other))
    scalars = features.scalars.shape[1]
    weights, splitter = (
        _weights(clusters),
        StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed),
    )
    risk, elsewhere = np.full(len(labels), np.nan), np.zeros(len(other_table))
    for fit, test in splitter.split(table, labels, clusters):
        model = _predictor(scalars, table.shape[1])
        with np.errstate(invalid="ignore"):  # states all alike have no variance to explain
            model.fit(table[fit], labels[fit], logisticregression__sample_weight=weights[fit])
        if len(test):
            risk[test] = model.predict_proba(table[test])[:, 1]
        if len(other_table):
            elsewhere += model.predict_proba(other_table)[:, 1] / FOLDS
    return Predictions(risk, elsewhere)


def can_fit(labels: Bools, clusters: Ints) -> bool:
    """Return whether both kinds of windows lie in enough clusters."""
    return fewest_clusters(clusters, labels, ~labels) >= LEAST_FITTED_CLUSTERS


def _weights(clusters: Ints) -> Floats:
    """(N,) weight of each window, 1 on average."""
    _, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    weights = sizes[index] ** -0.5
    return np.asarray(weights / weights.mean())


def _predictor(scalars: int, columns: int) -> Any:
    """Build an unfitted predictor that fits scaling and components on its own windows."""
    from sklearn.compose import ColumnTransformer
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = [("scalars", StandardScaler(), list(range(scalars)))]
    if columns > scalars:
        pca = PCA(min(COMPONENTS, columns - scalars), svd_solver="covariance_eigh")
        states = make_pipeline(StandardScaler(), pca, StandardScaler())
        parts.append(("states", states, list(range(scalars, columns))))
    return make_pipeline(ColumnTransformer(parts), LogisticRegression(C=C, max_iter=5000))
