"""What came out under perturbed weights, of each group of windows.

Knows what perturbations did to windows. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from memaudit.config.settings import ScoreSettings
from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.latent.trial import Noise, Shaken, Trial
from memaudit.report.diagnosis import Cell, Column, FigureTable, Measure
from memaudit.score.scores import rate_of
from memaudit.score.stats import Bools, Floats, Interval, Ints, bounded_mean, cluster_bootstrap

FOUND, KNOWN_ONLY = "another attack extracts", "known, no attack extracts"
OTHERS, CONTROLS, EXTRACTED = "others of the data", "controls", "the plain prefix extracts"


class Recovered(NamedTuple):
    """Windows of one group."""

    windows: int
    hits: int
    """That come out under at least one perturbation."""
    rate: Measure
    """Their share."""
    each: Measure
    """Share that comes out under one perturbation, on average."""
    before: float
    """Mean suffix NLL as the model is, nats/token."""
    rise: Measure
    """Mean rise of it under a perturbation."""


def recovered(
    trial: Trial, settings: ScoreSettings, seed: int, disclosure: Disclosure
) -> dict[str, Recovered]:
    """Each group that has windows and may have figures."""
    drawn = trial.drawn
    known = np.zeros_like(drawn.hidden) if drawn.known is None else drawn.known
    data, hidden = ~drawn.control, drawn.hidden & ~drawn.control
    groups: Mapping[str, Bools] = {
        FOUND: hidden,
        KNOWN_ONLY: data & known & ~hidden,
        OTHERS: data & ~hidden & ~known,
        CONTROLS: drawn.control,
    }
    rng = np.random.default_rng([seed, 3])
    found = {
        name: _group(trial.shaken.take(mask), drawn.clusters[mask], settings, rng)
        for name, mask in groups.items()
        if mask.any() and disclosure.admits(name, drawn.clusters[mask])
    }
    extracted = trial.extracted_clusters
    if len(extracted) and disclosure.admits(EXTRACTED, extracted):
        found[EXTRACTED] = _group(trial.extracted, trial.extracted_clusters, settings, rng)
    return found


def _group(
    shaken: Shaken, clusters: Ints, settings: ScoreSettings, rng: np.random.Generator
) -> Recovered:
    out = np.asarray(shaken.exact.any(axis=0))
    rate = rate_of(out, clusters, settings, rng)
    low = min(rate.interval.low, rate.clustered.low)
    high = max(rate.interval.high, rate.clustered.high)
    rise = shaken.nll.mean(axis=0) - shaken.before
    return Recovered(
        windows=rate.n,
        hits=rate.k,
        rate=Measure.of(rate.estimate, Interval(low, high)),
        each=_mean_share(shaken.exact.mean(axis=0), clusters, settings, rng),
        before=float(shaken.before.mean()),
        rise=_mean(rise, clusters, settings, rng),
    )


def _mean_share(
    shares: Floats, clusters: Ints, settings: ScoreSettings, rng: np.random.Generator
) -> Measure:
    """Of values in [0,1]; bounded by the sizes of the clusters where the bootstrap is a point."""
    found = _mean(shares, clusters, settings, rng)
    if found.value is None or found.low is not None:
        return found
    sizes = np.unique(clusters, return_counts=True)[1]
    return Measure.of(found.value, bounded_mean(found.value, sizes, settings.confidence))


def _mean(
    values: Floats, clusters: Ints, settings: ScoreSettings, rng: np.random.Generator
) -> Measure:
    """With the interval of a bootstrap over clusters; without one where that is a point."""
    ends = cluster_bootstrap(
        values,
        clusters,
        confidence=settings.confidence,
        resamples=settings.bootstrap,
        rng=rng,
    )
    if ends.low == ends.high:
        return Measure(float(values.mean()), None, None)
    return Measure.of(float(values.mean()), ends)


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
