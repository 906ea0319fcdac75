"""Cross-validated linear probe that separates two kinds of windows, whole clusters per fold.

Knows features, labels and cluster numbers as arrays. Knows no models. N: windows, D: features.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from memaudit.score.resample import LEAST_FITTED_CLUSTERS, fewest_clusters
from memaudit.score.stats import Bools, Floats, Ints

FOLDS = 5
"""Folds of the cross-validation."""
STRENGTH = 0.01
"""C of the probe, the inverse of its L2 penalty. With about as many features as windows, a weak
penalty lets a plane separate any two kinds of training windows. It is fixed, because choosing it
would cost positives that are few."""


def can_fit(positive: Bools, negative: Bools, clusters: Ints) -> bool:
    """Return True if both kinds of window (N,) lie in enough clusters to fit a probe."""
    return fewest_clusters(clusters, positive, negative) >= LEAST_FITTED_CLUSTERS


def assign_folds(positive: Bools, clusters: Ints, seed: int) -> Ints:
    """Return the fold (N,) that each window is tested in.

    No cluster is split between folds, and the folds share the positives about equally.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    folds = np.empty(len(positive), dtype=np.int64)
    parts = splitter.split(np.zeros((len(positive), 1)), positive, clusters)
    for number, (_, tested) in enumerate(parts):
        folds[tested] = number
    return folds


def probe_scores(
    features: npt.NDArray[np.float32], positive: Bools, fitted: Bools, folds: Ints
) -> Floats:
    """Return each window's log-odds (N,) by a probe that saw no window of its fold.

    features: (N,D), finite. positive: (N,) the labels. fitted: (N,) windows to fit probes on; other
    windows are only scored, by the probe of their fold. The probe is a logistic regression on
    standardised features, with both kinds weighted equally.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = np.empty(len(features))
    for fold in np.unique(folds):
        tested, training = folds == fold, fitted & (folds != fold)
        probe = make_pipeline(
            StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=300)
        )
        with warnings.catch_warnings():  # converged far enough for stable ranks
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(features[training], positive[training])
        scores[tested] = probe.decision_function(features[tested])
    return scores


def permuted_labels(positive: Bools, clusters: Ints, rng: np.random.Generator) -> Bools:
    """Permute the labels (N,) between clusters; the number of positives stays.

    The clusters are shuffled and the labels assigned in their old order, so that windows of one
    cluster nearly always have the same label.
    """
    _, number = np.unique(clusters, return_inverse=True)
    before = np.argsort(number, kind="stable")
    after = np.argsort(rng.permutation(int(number.max()) + 1)[number], kind="stable")
    permuted = np.empty_like(positive)
    permuted[after] = positive[before]
    return permuted
