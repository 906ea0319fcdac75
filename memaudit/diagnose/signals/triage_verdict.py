"""Predictors of extraction fitted and judged beside their controls, for one target.

Knows what is known of windows before decoding, and which are extracted. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.neurons.probe import permuted_labels
from memaudit.diagnose.signals.triage import Features, Foretold, can_fit, foretell
from memaudit.diagnose.signals.triage_gains import Gains, area_above, gains
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Floats, Ints

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Riskiest parts of the windows that are looked at in the tables."""
REACHES = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Parts of the extracted windows that are to be found."""
CURVE = tuple(np.geomspace(0.01, 1, 21).tolist())
"""Riskiest parts at which the curve is drawn."""
ALL, TEXT, LOGITS = "all signals", "text of the prefix", "text and logits"
ALONE, PERMUTED = "log p of the prefix alone", "all signals, labels permuted"


@dataclass(frozen=True, eq=False)
class Population:
    """N windows of the data, drawn evenly, and C controls, as they are before decoding."""

    features: Mapping[str, Features]
    """Those of each predictor that is fitted, by name."""
    controls: Mapping[str, Features]
    """The same of the controls; C may be 0."""
    alone: Floats
    """(N,) the one signal that predictors are compared with."""
    clusters: Ints
    control_clusters: Ints
    prefix_cost: int
    """Tokens of a pass over one prefix."""
    scan_cost: Floats
    """(N,) tokens that scanning a window by ``none`` takes: one pass, and what is decoded."""


class Target(NamedTuple):
    """What is to be foretold."""

    name: str
    """Part of names of tables: ``none`` or ``any``."""
    says: str
    """In words: ``extracted by the plain prefix``."""
    labels: Bools
    """(N,)."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What predictors are worth for one target."""

    target: Target
    above: Mapping[str, Estimate]
    """AUC of each fitted predictor minus that of the one signal alone."""
    gains: Mapping[str, Gains]
    best: Foretold
    """Of the predictor that has all signals."""


def judge(
    target: Target, windows: Population, resamples: Resamples, rng: np.random.Generator
) -> Verdict | None:
    """Fit and score every predictor; None where there are too few clusters."""
    labels, clusters = target.labels, windows.clusters
    if not can_fit(labels, clusters):
        return None
    said = {
        name: foretell(features, labels, clusters, windows.controls[name], rng)
        for name, features in windows.features.items()
    }
    permuted = permuted_labels(labels, clusters, rng)  # as clustered as the truth
    lot = (
        foretell(windows.features[ALL], permuted, clusters, windows.controls[ALL], rng)
        if can_fit(permuted, clusters)
        else None
    )
    risks = {name: (one.risk, labels) for name, one in said.items()}
    risks[ALONE] = (windows.alone, labels)
    if lot is not None:
        risks[PERMUTED] = (lot.risk, permuted)
    shares, reaches = np.array([*SHARES, *CURVE]), np.array(REACHES)
    above = {
        name: area_above(one.risk, windows.alone, labels, clusters, resamples)
        for name, one in said.items()
    }
    found = {
        name: gains(risk, own, clusters, shares=shares, reaches=reaches, resamples=resamples)
        for name, (risk, own) in risks.items()
    }
    return Verdict(target, above, found, said[ALL])
