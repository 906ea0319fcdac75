"""A predictor of what is extracted, and what it saves: fitted and scored with clusters kept apart.

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
"""Inverse strength of the logistic regression's penalty, set beforehand. On the testbed weaker ones
were too sure of themselves, and boosted trees ranked no better."""
COMPONENTS = 16
"""Principal components of the states that a predictor is given."""
MOST_STATE = 256
"""Numbers of a state that components are looked for in; wider ones are projected at random first,
which keeps distances (Johnson & Lindenstrauss 1984) and learns nothing from the data."""


@dataclass(frozen=True, eq=False)
class Features:
    """What is known of N windows before anything is decoded."""

    scalars: Floats
    """(N,F), all finite."""
    states: NDArray[np.float32] | None = None
    """(N,D); None where a predictor does without."""

    def joined(self, rng: np.random.Generator) -> Floats:
        """(N,F+D'), D' at most 256."""
        if self.states is None:
            return self.scalars
        states = self.states.astype(np.float64)
        if states.shape[1] > MOST_STATE:
            way = rng.standard_normal((states.shape[1], MOST_STATE)) / math.sqrt(MOST_STATE)
            states = states @ way
        return np.concatenate([self.scalars, states], axis=1)


class Foretold(NamedTuple):
    """What predictors said of windows that they were not fitted on."""

    risk: Floats
    """(N,) probability of being extracted, from the fold that had not seen the window's cluster."""
    elsewhere: Floats
    """(C,) of other windows, the mean over the folds' predictors."""


def foretell(
    features: Features, labels: Bools, clusters: Ints, other: Features, rng: np.random.Generator
) -> Foretold:
    """Fit and score logistic regression with clusters kept apart in five folds.

    Near-duplicates say much the same, and a few large clusters would be learnt by heart: a window
    of a cluster of n weighs 1/sqrt(n). other: windows (C,...) that are only scored.

    Raises ValueError for fewer clusters of either kind than `can_fit` wants.
    """
    if not can_fit(labels, clusters):
        raise ValueError(f"fewer than {LEAST_FITTED_CLUSTERS} clusters of a kind")
    from sklearn.model_selection import StratifiedGroupKFold

    seed, start = (int(number) for number in rng.integers(1 << 31, size=2))
    given, others = (one.joined(np.random.default_rng(start)) for one in (features, other))
    scalars = features.scalars.shape[1]
    weights, splitter = (
        _weights(clusters),
        StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed),
    )
    risk, elsewhere = np.full(len(labels), np.nan), np.zeros(len(others))
    for fit, test in splitter.split(given, labels, clusters):
        model = _predictor(scalars, given.shape[1])
        with np.errstate(invalid="ignore"):  # states all alike have no variance to explain
            model.fit(given[fit], labels[fit], logisticregression__sample_weight=weights[fit])
        if len(test):
            risk[test] = model.predict_proba(given[test])[:, 1]
        if len(others):
            elsewhere += model.predict_proba(others)[:, 1] / FOLDS
    return Foretold(risk, elsewhere)


def can_fit(labels: Bools, clusters: Ints) -> bool:
    """Whether both kinds of windows lie in enough clusters."""
    return fewest_clusters(clusters, labels, ~labels) >= LEAST_FITTED_CLUSTERS


def _weights(clusters: Ints) -> Floats:
    """(N,) of each window, 1 on average."""
    _, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    weights = sizes[index] ** -0.5
    return np.asarray(weights / weights.mean())


def _predictor(scalars: int, columns: int) -> Any:
    """Not fitted yet; scaling and components are fitted with it, on the same windows."""
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
