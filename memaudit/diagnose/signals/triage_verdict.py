"""Predictors of extraction for one target, judged against their controls.

Knows features of windows before decoding, and which are extracted. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.probes import permuted_labels
from memaudit.diagnose.signals.triage import Features, Predictions, can_fit, predict
from memaudit.diagnose.signals.triage_gains import Gains, area_above, gains
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats, Ints

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Riskiest shares of the windows in the tables."""
REACHES = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Shares of the extracted windows to find."""
CURVE = tuple(np.geomspace(0.01, 1, 21).tolist())
"""Riskiest shares in the plot."""
ALL, TEXT, LOGITS = "all signals", "text of the prefix", "text and logits"
ALONE, PERMUTED = "log p of the prefix alone", "all signals, labels permuted"


@dataclass(frozen=True, eq=False)
class Population:
    """N windows sampled uniformly from the data, and C controls, before decoding."""

    features: Mapping[str, Features]
    """Features of each fitted predictor, by name."""
    controls: Mapping[str, Features]
    """Features of the controls by predictor; C may be 0."""
    alone: Floats
    """(N,) signal that predictors are compared with."""
    clusters: Ints
    control_clusters: Ints
    prefix_cost: int
    """Tokens of a pass over one prefix."""
    scan_cost: Floats
    """(N,) tokens that scanning a window by ``none`` takes: one pass and the decoded tokens."""


class Target(NamedTuple):
    """Extraction to predict."""

    name: str
    """Part of names of tables: ``none`` or ``any``."""
    wording: str
    """Wording in sentences: ``extracted by the plain prefix``."""
    labels: Bools
    """(N,)."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """Judgement of the predictors for one target."""

    target: Target
    above: Mapping[str, Estimate]
    """AUC of each fitted predictor minus that of the signal alone."""
    gains: Mapping[str, Gains]
    best: Predictions
    """Predictions from all signals."""


def judge(
    target: Target, windows: Population, resamples: Resamples, rng: np.random.Generator
) -> Verdict | None:
    """Fit and score every predictor; None for too few clusters."""
    labels, clusters = target.labels, windows.clusters
    if not can_fit(labels, clusters):
        return None
    predictions = {
        name: predict(features, labels, clusters, windows.controls[name], rng)
        for name, features in windows.features.items()
    }
    permuted = permuted_labels(labels, clusters, rng)  # as clustered as the truth
    by_chance = (
        predict(windows.features[ALL], permuted, clusters, windows.controls[ALL], rng)
        if can_fit(permuted, clusters)
        else None
    )
    risks = {name: (predicted.risk, labels) for name, predicted in predictions.items()}
    risks[ALONE] = (windows.alone, labels)
    if by_chance is not None:
        risks[PERMUTED] = (by_chance.risk, permuted)
    shares, reaches = np.array([*SHARES, *CURVE]), np.array(REACHES)
    above = {
        name: area_above(predicted.risk, windows.alone, labels, clusters, resamples)
        for name, predicted in predictions.items()
    }
    judged = {
        name: gains(risk, truth, clusters, shares=shares, reaches=reaches, resamples=resamples)
        for name, (risk, truth) in risks.items()
    }
    return Verdict(target, above, judged, predictions[ALL])
