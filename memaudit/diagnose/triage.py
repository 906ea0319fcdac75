"""A predictor of what is extracted, and what it saves: fitted and scored with clusters kept apart.

Knows figures of windows, labels and cluster numbers as arrays. Knows no model and no ids.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memaudit.diagnose.signal_means import Resampling
from memaudit.diagnosis import Measure
from memaudit.score.stats import Bools, Floats, Interval, Ints, clustered_rate

FOLDS, INNER_FOLDS = 5, 3
FEWEST_CLUSTERS = 20
"""Clusters with a window of either kind, below which nothing is fitted: four in each fold."""
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
    chosen: Mapping[str, int]
    """In how many folds each kind of predictor was taken."""


def foretell(
    features: Features, labels: Bools, clusters: Ints, other: Features, rng: np.random.Generator
) -> Foretold:
    """Fit and score with clusters kept apart in five folds.

    In each fold logistic regression or boosted trees, whichever ranks better (average precision)
    within the part that is fitted on, clusters kept apart there too. other: windows (C,...) that
    are only scored; their clusters may be of those fitted on.

    Raises ValueError for fewer clusters of either kind than `can_fit` wants.
    """
    if not can_fit(labels, clusters):
        raise ValueError(f"fewer than {FEWEST_CLUSTERS} clusters of a kind")
    seed = int(rng.integers(1 << 31))
    start = int(rng.integers(1 << 31))
    given, others = (one.joined(np.random.default_rng(start)) for one in (features, other))
    kinds = _kinds(features.scalars.shape[1], given.shape[1], seed)
    risk, elsewhere, chosen = np.full(len(labels), np.nan), np.zeros(len(others)), Counter[str]()
    for fit, test in _split(labels, clusters, FOLDS, seed):
        name = _choose(kinds, given[fit], labels[fit], clusters[fit], seed)
        model = kinds[name]().fit(given[fit], labels[fit])
        risk[test] = model.predict_proba(given[test])[:, 1]
        if len(others):
            elsewhere += model.predict_proba(others)[:, 1] / FOLDS
        chosen[name] += 1
    return Foretold(risk, elsewhere, dict(sorted(chosen.items())))


def can_fit(labels: Bools, clusters: Ints) -> bool:
    """Whether both kinds of windows lie in enough clusters."""
    kinds = (clusters[labels], clusters[~labels])
    return all(len(np.unique(kind)) >= FEWEST_CLUSTERS for kind in kinds)


def _split(
    labels: Bools, clusters: Ints, folds: int, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return [
        (fit, test)
        for fit, test in splitter.split(np.zeros(len(labels)), labels, clusters)
        if len(test)
    ]


def _choose(
    kinds: Mapping[str, Callable[[], Any]], given: Floats, labels: Bools, clusters: Ints, seed: int
) -> str:
    """The kind that ranks best within these windows; the first of equals."""
    found = dict.fromkeys(kinds, 0.0)
    for fit, test in _split(labels, clusters, INNER_FOLDS, seed):
        if not labels[test].any() or labels[fit].all() or not labels[fit].any():
            continue
        for name, make in kinds.items():
            risk = make().fit(given[fit], labels[fit]).predict_proba(given[test])[:, 1]
            found[name] += average_precision(risk, labels[test])
    return max(found, key=lambda name: found[name])


def _kinds(scalars: int, columns: int, seed: int) -> dict[str, Callable[[], Any]]:
    """Unfitted predictors; scaling and components are fitted with them, on the same windows."""
    from sklearn.compose import ColumnTransformer
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def prepared(last: Any) -> Any:
        parts = [("scalars", StandardScaler(), list(range(scalars)))]
        if columns > scalars:
            count = min(COMPONENTS, columns - scalars)
            pca = PCA(count, svd_solver="covariance_eigh")
            states = make_pipeline(StandardScaler(), pca, StandardScaler())
            parts.append(("states", states, list(range(scalars, columns))))
        return make_pipeline(ColumnTransformer(parts), last)

    def trees() -> Any:
        return HistGradientBoostingClassifier(
            max_iter=100,
            learning_rate=0.05,
            max_leaf_nodes=8,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=seed,
        )

    return {
        "logistic regression": lambda: prepared(LogisticRegression(C=0.1, max_iter=5000)),
        "boosted trees": lambda: prepared(trees()),
    }


class _Ranking(NamedTuple):
    """Windows from the riskiest on, those of equal risk in one step; both begin with 0."""

    all: Floats
    positive: Floats


def _rank(place: Ints, positive: Bools, weights: Floats) -> _Ranking:
    every = np.bincount(place, weights=weights).cumsum()
    hits = np.bincount(place, weights=weights * positive).cumsum()
    return _Ranking(np.append(0.0, every), np.append(0.0, hits))


def _reached(ranking: _Ranking, shares: Floats) -> Floats:
    """Positives among the riskiest ``shares`` (G,) of the windows, as a share of all positives.

    Of windows of equal risk as many as there would be on average, were they drawn by lot.
    """
    if not ranking.positive[-1]:
        return np.full(len(shares), np.nan)
    found = np.interp(shares * ranking.all[-1], ranking.all, ranking.positive)
    return np.asarray(found / ranking.positive[-1])


def _needed(ranking: _Ranking, reaches: Floats) -> Floats:
    """The share of the windows that has to be looked at for so much (R,) of the positives."""
    if not ranking.positive[-1]:
        return np.full(len(reaches), np.nan)
    wanted = reaches * ranking.positive[-1]
    after = np.maximum(1, np.searchsorted(ranking.positive, wanted * (1 - 1e-12)))
    before = ranking.positive[after - 1]
    part = (wanted - before) / (ranking.positive[after] - before)
    start, end = ranking.all[after - 1], ranking.all[after]
    return np.asarray((start + part * (end - start)) / ranking.all[-1])


def average_precision(scores: Floats, positive: Bools) -> float:
    """Mean precision at the positives, from the highest score on; equal scores in one step."""
    _, place = np.unique(-scores, return_inverse=True)
    return _average_precision(_rank(place, positive, np.ones(len(scores))))


def _average_precision(ranking: _Ranking) -> float:
    if not ranking.positive[-1]:
        return math.nan
    every, hits = ranking.all[1:], ranking.positive[1:]
    precision = np.divide(hits, every, out=np.zeros_like(hits), where=every > 0)
    return float(np.diff(ranking.positive) @ precision / ranking.positive[-1])


@dataclass(frozen=True, eq=False)
class Gains:
    """What looking at the riskiest windows first brings, on N windows."""

    reached: list[Measure]
    """Share of all positives among the riskiest x of the windows, for each x asked (G)."""
    precision: list[Measure]
    """Share of positives among those windows (G)."""
    needed: list[Measure]
    """Share of the windows to be looked at for each part of the positives asked (R)."""
    average_precision: Measure


def gains(
    scores: Floats,
    positive: Bools,
    clusters: Ints,
    *,
    shares: Floats,
    reaches: Floats,
    resampling: Resampling,
) -> Gains:
    """Gains of scores (N,), the higher the riskier, at ``shares`` (G,) and ``reaches`` (R,).

    Intervals: percentile bootstrap over whole clusters, the scores as they are; where all or no
    positives are among the riskiest, the exact bound over their clusters (`stats.agreeing`).
    """
    _, place = np.unique(-scores, return_inverse=True)
    _, cluster = np.unique(clusters, return_inverse=True)

    def figures(weights: Floats) -> Floats:
        ranking = _rank(place, positive, weights)
        reached = _reached(ranking, shares)
        precision = reached * ranking.positive[-1] / (shares * ranking.all[-1])
        rest = [_needed(ranking, reaches), [_average_precision(ranking)]]
        return np.concatenate([reached, precision, *rest])

    value = figures(np.ones(len(scores)))
    found = resampling.resample(
        int(cluster.max()) + 1,
        lambda drawn: np.stack([figures(times[cluster]) for times in drawn]),
    )
    low, high = resampling.ends(found)
    measures = [
        Measure.of(float(one), Interval(float(start), float(end)))
        for one, start, end in zip(value, low, high, strict=True)
    ]
    size = len(shares)
    reached = [_bounded(one, positive, clusters, resampling) for one in measures[:size]]
    return Gains(reached, measures[size : 2 * size], measures[2 * size : -1], measures[-1])


def _bounded(one: Measure, positive: Bools, clusters: Ints, resampling: Resampling) -> Measure:
    """With the exact interval where every positive says the same and no bootstrap can help."""
    if one.value is None or 1e-9 < one.value < 1 - 1e-9:
        return one
    hits = np.full(int(positive.sum()), one.value > 0.5)
    return Measure.of(one.value, clustered_rate(hits, clusters[positive], **resampling.options))
