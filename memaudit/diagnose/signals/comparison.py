"""Signals compared over groups of windows, and how well each alone tells extracted ones apart.

Knows signals and groups as arrays. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.signals.features import Kind, Signal
from memaudit.diagnose.signals.groups import Look
from memaudit.report.diagnosis import Cell, Column, FigureTable
from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_CLUSTERS, Resamples
from memaudit.score.stats import Bools

KNOWN: dict[Kind, str] = {
    "text": "text of the prefix",
    "logits": "prefix pass",
    "state": "prefix pass",
    "suffix": "suffix",
}
"""What has to be there for a signal of this kind."""


def compare_means(look: Look, signals: Sequence[Signal], resamples: Resamples) -> FigureTable:
    """Mean of each signal in each group."""
    means = {
        group: resamples.each_mean(
            np.stack([signal.values for signal in signals], axis=1)[look.of(group)],
            look.clusters[look.of(group)],
        )
        for group in look.present
    }
    rows: list[list[Cell]] = [
        [signal.name, KNOWN[signal.kind], *(column[row] for column in means.values())]
        for row, signal in enumerate(signals)
    ]
    heads = [Column("signal", "text"), Column("known from", "text")]
    return FigureTable(
        "signals",
        "Signals by group",
        "Mean over the windows of each group, with its interval over clusters. Entropies, log p "
        "and rarity in nats; rarity is -ln of a token's share among the tokens of all other "
        "prefixes in the data file.",
        [*heads, *(Column(group, "number") for group in means)],
        rows,
    )


class Apart(NamedTuple):
    """How well one signal tells extracted windows from others."""

    signal: Signal
    others: Estimate
    """AUC against windows of the data that are not extracted."""
    controls: Estimate


def tell_apart(look: Look, signals: Sequence[Signal], resamples: Resamples) -> list[Apart]:
    """AUC of each signal alone, extracted windows above the others; empty where there are none."""
    extracted, controls = look.of("extracted"), look.of("controls")
    others = ~extracted & ~controls & look.fair
    if not extracted.any() or not (others | controls).any():
        return []
    return [
        Apart(
            signal,
            _auc(look, signal, extracted, others, resamples),
            _auc(look, signal, extracted, controls, resamples),
        )
        for signal in signals
    ]


def _auc(
    look: Look, signal: Signal, extracted: Bools, others: Bools, resamples: Resamples
) -> Estimate:
    both = (extracted | others) & ~np.isnan(signal.values)
    return resamples.auc(signal.values[both], extracted[both], look.clusters[both])


def apart_table(found: Sequence[Apart]) -> FigureTable:
    """The most telling first."""
    rows: list[list[Cell]] = [
        [one.signal.name, KNOWN[one.signal.kind], one.others, one.controls]
        for one in sorted(found, key=lambda one: -distance(one.others, one.controls))
    ]
    return FigureTable(
        "telling-apart",
        "What one signal alone tells",
        "Area under the ROC curve, extracted against not extracted windows of the data and "
        "against controls: 0.5 is chance, below 0.5 the extracted ones have the lower values. "
        "Signals that need the suffix hold what extraction itself is decided by, and are no "
        f"prediction. Without an interval below {LEAST_CLUSTERS} clusters of either kind.",
        [
            Column("signal", "text"),
            Column("known from", "text"),
            Column("AUC, not extracted", "number"),
            Column("AUC, controls", "number"),
        ],
        rows,
    )


def distance(*areas: Estimate) -> float:
    """How far from chance the first area is that is known, of those with an interval first."""
    ordered = sorted(areas, key=lambda one: one.low is None)
    return next((abs(one.value - 0.5) for one in ordered if one.value is not None), 0.0)
