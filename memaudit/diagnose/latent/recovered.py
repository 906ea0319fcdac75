"""What came out under perturbed weights, of each group of windows.

Knows what perturbations did to windows. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.latent.trial import Noise, Shaken, Trial
from memaudit.report.diagnosis import Cell, Column, FigureTable
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools, Ints

FOUND, KNOWN_ONLY = "another attack extracts", "known, no attack extracts"
OTHERS, CONTROLS, EXTRACTED = "others of the data", "controls", "the plain prefix extracts"


class Recovered(NamedTuple):
    """Windows of one group."""

    windows: int
    hits: int
    """That come out under at least one perturbation."""
    rate: Estimate
    """Their share."""
    each: Estimate
    """Share that comes out under one perturbation, on average."""
    before: float
    """Mean suffix NLL as the model is, nats/token."""
    rise: Estimate
    """Mean rise of it under a perturbation."""


def recovered(trial: Trial, resamples: Resamples, disclosure: Disclosure) -> dict[str, Recovered]:
    """Return each group that has windows and may have figures."""
    drawn = trial.drawn
    known = np.zeros_like(drawn.hidden) if drawn.known is None else drawn.known
    data, hidden = ~drawn.control, drawn.hidden & ~drawn.control
    groups: Mapping[str, Bools] = {
        FOUND: hidden,
        KNOWN_ONLY: data & known & ~hidden,
        OTHERS: data & ~hidden & ~known,
        CONTROLS: drawn.control,
    }
    found = {
        name: _group(trial.shaken.take(mask), drawn.clusters[mask], resamples)
        for name, mask in groups.items()
        if mask.any() and disclosure.admits(name, drawn.clusters[mask])
    }
    clusters = trial.extracted_clusters
    if len(clusters) and disclosure.admits(EXTRACTED, clusters):
        found[EXTRACTED] = _group(trial.extracted, clusters, resamples)
    return found


def _group(shaken: Shaken, clusters: Ints, resamples: Resamples) -> Recovered:
    out = np.asarray(shaken.exact.any(axis=0))
    return Recovered(
        windows=len(out),
        hits=int(out.sum()),
        rate=resamples.rate(out, clusters),
        each=resamples.mean_share(shaken.exact.mean(axis=0), clusters),
        before=float(shaken.before.mean()),
        rise=resamples.mean(shaken.nll.mean(axis=0) - shaken.before, clusters).unless_point(),
    )


def recovered_table(found: Mapping[str, Recovered], noise: Noise) -> FigureTable:
    """A row for each group."""
    columns = (
        *(Column("windows that", "text"), Column("looked at", "count")),
        *(Column("come out", "count"), Column(f"under any of {noise.draws}", "share")),
        *(Column("under one, mean", "share"), Column("NLL", "nats")),
        Column("its rise, mean", "nats"),
    )
    rows: list[Sequence[Cell]] = [
        (name, one.windows, one.hits, one.rate, one.each, one.before, one.rise)
        for name, one in found.items()
    ]
    return FigureTable(
        name="recovered",
        title="What comes out when the weights are perturbed",
        says=(
            f"{noise.draws} times, Gaussian noise of {noise.strength:g} of each weight matrix' "
            "root mean square is added, and looked whether greedy decoding then returns the "
            "suffix. Controls say how often that happens to text that was never seen, and windows "
            "that the plain prefix extracts how much of what is remembered the noise itself "
            "destroys."
        ),
        columns=columns,
        rows=rows,
    )
