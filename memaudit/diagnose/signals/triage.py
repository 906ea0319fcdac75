"""Predictor of extraction, cross-validated with whole clusters per fold.

Knows figures of windows, labels and cluster numbers as arrays. Knows no model and no ids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memaudit.diagnose.probes import FOLDS, assign_folds, can_fit, permuted_labels
from memaudit.score.resample import LEAST_FITTED_CLUSTERS
from memaudit.score.stats import Bools, Floats, Ints

ALL, TEXT, LOGITS = "all signals", "text of the prefix", "text and logits"
"""Predictors, by what they know."""
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


class Target(NamedTuple):
    """Extraction to predict."""

    name: str
    """Part of names of tables: ``none`` or ``any``."""
    wording: str
    """Wording in sentences: ``extracted by the plain prefix``."""
    labels: Bools
    """(N,)."""


@dataclass(frozen=True, eq=False)
class Forecast:
    """Predictions for one target."""

    target: Target
    predictions: Mapping[str, Predictions]
    """Predictions by predictor; empty for too few clusters."""
    permuted: tuple[Predictions, Bools] | None
    """Predictions of permuted labels (N,) from all signals, and these labels; None for too few
    clusters."""


@dataclass(frozen=True, eq=False)
class Triage:
    """N windows sampled uniformly from the data, C controls, and predictions of extraction."""

    forecasts: Sequence[Forecast]
    alone: Floats
    """(N,) signal that predictors are compared with."""
    clusters: Ints
    control_clusters: Ints
    """(C,)."""
    prefix_cost: Ints
    """(N,) tokens of a pass over the prefix."""
    scan_cost: Floats
    """(N,) tokens that scanning a window by ``none`` takes: one pass and the decoded tokens."""


def forecast(
    target: Target,
    features: Mapping[str, Features],
    other: Mapping[str, Features],
    clusters: Ints,
    rng: np.random.Generator,
) -> Forecast:
    """Fit every predictor, by the name of its features; and one on permuted labels as a control."""
    labels = target.labels
    if not can_fit(labels, ~labels, clusters):
        return Forecast(target, {}, None)
    predictions = {
        name: predict(given, labels, clusters, other[name], rng) for name, given in features.items()
    }
    permuted = permuted_labels(labels, clusters, rng)  # as clustered as the truth
    by_chance = None
    if can_fit(permuted, ~permuted, clusters):
        by_chance = (predict(features[ALL], permuted, clusters, other[ALL], rng), permuted)
    return Forecast(target, predictions, by_chance)


def predict(
    features: Features, labels: Bools, clusters: Ints, other: Features, rng: np.random.Generator
) -> Predictions:
    """Cross-validate logistic regression in five folds, each cluster in one fold.

    A window of a cluster of n weighs 1/sqrt(n): near-duplicates carry much the same information,
    and a few large clusters would dominate. other: windows (C,...) that are only scored.

    Raises ValueError for fewer clusters of either kind than `probes.can_fit` requires.
    """
    if not can_fit(labels, ~labels, clusters):
        raise ValueError(f"fewer than {LEAST_FITTED_CLUSTERS} clusters of a kind")
    seed, start = (int(number) for number in rng.integers(1 << 31, size=2))
    table, other_table = (given.joined(np.random.default_rng(start)) for given in (features, other))
    scalars, weights = features.scalars.shape[1], _weights(clusters)
    folds = assign_folds(labels, clusters, seed)
    risk, elsewhere = np.full(len(labels), np.nan), np.zeros(len(other_table))
    for fold in range(FOLDS):
        test, fit = folds == fold, folds != fold
        model = _predictor(scalars, table.shape[1])
        with np.errstate(invalid="ignore"):  # states all alike have no variance to explain
            model.fit(table[fit], labels[fit], logisticregression__sample_weight=weights[fit])
        if test.any():
            risk[test] = model.predict_proba(table[test])[:, 1]
        if len(other_table):
            elsewhere += model.predict_proba(other_table)[:, 1] / FOLDS
    return Predictions(risk, elsewhere)


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
