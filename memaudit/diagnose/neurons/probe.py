"""A linear probe: does a representation of a window tell two kinds of windows apart?

Knows features, labels and cluster numbers as arrays. Knows nothing of models or of what the
kinds are. N stands for windows, D for features.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from memaudit.score.resample import LEAST_FITTED_CLUSTERS, fewest_clusters
from memaudit.score.stats import Bools, Floats, Ints

FOLDS = 5
"""Of the cross-validation, where there are as many clusters of each kind."""
STRENGTH = 0.01
"""C of the probe, the inverse of its L2 penalty. There are about as many features as windows, so
that under a weak penalty a plane parts any two kinds of training windows. Fixed, because to choose
it among few positives costs more of them than it brings."""


def enough(positive: Bools, negative: Bools, clusters: Ints) -> bool:
    """Return True if both kinds of window (N,) lie in enough clusters to fit a probe."""
    return fewest_clusters(clusters, positive, negative) >= LEAST_FITTED_CLUSTERS


def assign_folds(positive: Bools, clusters: Ints, rng: np.random.Generator) -> Ints:
    """(N,) the fold that each window is tested in: none is divided among two folds, and each has
    about its share of the positives.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    found = np.empty(len(positive), dtype=np.int64)
    parts = splitter.split(np.zeros((len(positive), 1)), positive, clusters)
    for number, (_, tested) in enumerate(parts):
        found[tested] = number
    return found


def probe_scores(
    features: npt.NDArray[np.float32], positive: Bools, fitted: Bools, folds: Ints
) -> Floats:
    """(N,) how positive each window looks to a probe that saw no window of its fold.

    features: (N,D), finite. positive: (N,) the labels. fitted: (N,) which windows probes are
    fitted on; the others are scored only, by the probe of their fold. A logistic regression on
    standardised features, both kinds weighing the same; what it gives is the log-odds.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = np.empty(len(features))
    for fold in np.unique(folds):
        tested, seen = folds == fold, fitted & (folds != fold)
        probe = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=300),
        )
        with warnings.catch_warnings():  # so far converged that no rank changes any more
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(features[seen], positive[seen])
        scores[tested] = probe.decision_function(features[tested])
    return scores


def permuted_labels(positive: Bools, clusters: Ints, rng: np.random.Generator) -> Bools:
    """(N,) as many positives, on windows that have nothing to do with them.

    Clusters are put in another order and the labels laid over them as they came, so that windows
    of one cluster go on having one label, nearly always.
    """
    _, number = np.unique(clusters, return_inverse=True)
    before = np.argsort(number, kind="stable")
    after = np.argsort(rng.permutation(int(number.max()) + 1)[number], kind="stable")
    permuted = np.empty_like(positive)
    permuted[after] = positive[before]
    return permuted
