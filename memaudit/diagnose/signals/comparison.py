"""Mean of each signal by group, and how well each signal alone identifies extracted windows.

Knows signals and groups as arrays. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.signals.features import Kind, Signal
from memaudit.diagnose.signals.groups import Grouped
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
"""Input that a signal of each kind needs."""


def compare_means(grouped: Grouped, signals: Sequence[Signal], resamples: Resamples) -> FigureTable:
    """Mean of each signal in each group."""
    means = {
        group: resamples.each_mean(
            np.stack([signal.values for signal in signals], axis=1)[grouped.of(group)],
            grouped.clusters[grouped.of(group)],
        )
        for group in grouped.present
    }
    rows: list[list[Cell]] = [
        [signal.name, KNOWN[signal.kind], *(column[row] for column in means.values())]
        for row, signal in enumerate(signals)
    ]
    heads = [Column("signal", "text"), Column("known from", "text")]
    return FigureTable(
        "signals",
        "Signals by group",
        "Mean over the windows of each group, with an interval over clusters. Entropies, log p "
        "and rarity are in nats; rarity is -ln of a token's share among the tokens of all other "
        "prefixes in the data file.",
        [*heads, *(Column(group, "number") for group in means)],
        rows,
    )


class Separation(NamedTuple):
    """How well one signal separates extracted windows from other windows."""

    signal: Signal
    not_extracted: Estimate
    """AUC against windows of the data that are not extracted."""
    controls: Estimate
    """AUC against controls."""

    @property
    def distance(self) -> float:
        """Distance from chance of the first known area; areas with an interval come first."""
        areas = sorted((self.not_extracted, self.controls), key=lambda area: area.low is None)
        return next((abs(area.value - 0.5) for area in areas if area.value is not None), 0.0)


def separate(grouped: Grouped, signals: Sequence[Signal], resamples: Resamples) -> list[Separation]:
    """Return the AUC of each signal alone; empty if there is nothing to compare."""
    extracted, controls = grouped.of("extracted"), grouped.of("controls")
    not_extracted = ~extracted & ~controls & grouped.fair
    if not extracted.any() or not (not_extracted | controls).any():
        return []
    return [
        Separation(
            signal,
            _auc(grouped, signal, extracted, not_extracted, resamples),
            _auc(grouped, signal, extracted, controls, resamples),
        )
        for signal in signals
    ]


def _auc(
    grouped: Grouped, signal: Signal, extracted: Bools, not_extracted: Bools, resamples: Resamples
) -> Estimate:
    both = (extracted | not_extracted) & ~np.isnan(signal.values)
    return resamples.auc(signal.values[both], extracted[both], grouped.clusters[both])


def separation_table(separations: Sequence[Separation]) -> FigureTable:
    """Table of the signals, the best first."""
    rows: list[list[Cell]] = [
        [
            separation.signal.name,
            KNOWN[separation.signal.kind],
            separation.not_extracted,
            separation.controls,
        ]
        for separation in sorted(separations, key=lambda separation: -separation.distance)
    ]
    return FigureTable(
        "telling-apart",
        "Each signal alone",
        "Area under the ROC curve of extracted windows against windows of the data that are not "
        "extracted, and against controls: 0.5 is chance; below 0.5, extracted windows have the "
        "lower values. Signals that need the suffix contain what decides extraction, so they "
        f"predict nothing. No interval below {LEAST_CLUSTERS} clusters of either kind.",
        [
            Column("signal", "text"),
            Column("known from", "text"),
            Column("AUC, not extracted", "number"),
            Column("AUC, controls", "number"),
        ],
        rows,
    )
