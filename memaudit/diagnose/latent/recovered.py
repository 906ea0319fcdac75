"""Windows of each group that come out with perturbed weights.

Knows the effect of perturbations on windows. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.latent.trial import Noise, Perturbed, Trial
from memaudit.report.diagnosis import Cell, Column, FigureTable
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Ints

BY_ATTACK, KNOWN_ONLY = "another attack extracts", "known, no attack extracts"
OTHERS, CONTROLS, EXTRACTED = "other windows of the data", "controls", "the plain prefix extracts"


class Recovered(NamedTuple):
    """Figures of one group of windows."""

    windows: int
    hits: int
    """Windows that come out with at least one perturbation."""
    rate: Estimate
    """Share of ``hits``."""
    each: Estimate
    """Share that comes out with one perturbation, on average."""
    before: float
    """Mean suffix NLL of the intact model, nats/token."""
    rise: Estimate
    """Mean rise of the suffix NLL with a perturbation, nats/token."""


def recovered(trial: Trial, resamples: Resamples, disclosure: Disclosure) -> dict[str, Recovered]:
    """Return the figures of each group that has windows and may have figures."""
    sampled = trial.sampled
    known = np.zeros_like(sampled.hidden) if sampled.known is None else sampled.known
    data, hidden = ~sampled.control, sampled.hidden & ~sampled.control
    groups: Mapping[str, Bools] = {
        BY_ATTACK: hidden,
        KNOWN_ONLY: data & known & ~hidden,
        OTHERS: data & ~hidden & ~known,
        CONTROLS: sampled.control,
    }
    figures = {
        name: _group(trial.perturbed.take(mask), sampled.clusters[mask], resamples)
        for name, mask in groups.items()
        if mask.any() and disclosure.admits(name, sampled.clusters[mask])
    }
    clusters = trial.extracted_clusters
    if len(clusters) and disclosure.admits(EXTRACTED, clusters):
        figures[EXTRACTED] = _group(trial.extracted, clusters, resamples)
    return figures


def _group(perturbed: Perturbed, clusters: Ints, resamples: Resamples) -> Recovered:
    out = np.asarray(perturbed.exact.any(axis=0))
    return Recovered(
        windows=len(out),
        hits=int(out.sum()),
        rate=resamples.rate(out, clusters),
        each=resamples.mean_share(perturbed.exact.mean(axis=0), clusters),
        before=float(perturbed.before.mean()),
        rise=resamples.mean(perturbed.nll.mean(axis=0) - perturbed.before, clusters).unless_point(),
    )


def recovered_table(groups: Mapping[str, Recovered], noise: Noise) -> FigureTable:
    """Table with a row for each group."""
    columns = (
        *(Column("group", "text"), Column("windows", "count")),
        *(Column("come out", "count"), Column(f"with any of {noise.draws}", "share")),
        *(Column("with one, mean", "share"), Column("NLL", "nats")),
        Column("NLL rise, mean", "nats"),
    )
    rows: list[Sequence[Cell]] = [
        (name, group.windows, group.hits, group.rate, group.each, group.before, group.rise)
        for name, group in groups.items()
    ]
    return FigureTable(
        name="recovered",
        title="Windows that come out with perturbed weights",
        says=(
            f"Each of {noise.draws} perturbations adds Gaussian noise of {noise.strength:g} of "
            "each weight matrix' root mean square; a window comes out if greedy decoding then "
            "returns its suffix. Controls show how often this happens to unseen text. Windows "
            "that the plain prefix extracts show how much memory the noise destroys."
        ),
        columns=columns,
        rows=rows,
    )
