"""Windows that score above the controls, and windows that come out with perturbed weights.

Knows scored windows and the effect of perturbations. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.latent.measure import Population, Trial
from memaudit.diagnose.latent.perturbation import Noise, Perturbed
from memaudit.diagnose.section import heads
from memaudit.report.diagnosis import Cell, FigureTable
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples, shared
from memaudit.score.stats import Bools, Ints

BY_ATTACK, KNOWN_ONLY = "another attack extracts", "known, no attack extracts"
OTHERS, CONTROLS, EXTRACTED = "other windows of the data", "controls", "the plain prefix extracts"


ALLOWED = (0.01, 0.0)
"""Shares of the controls that may pass a threshold."""


class AboveControls(NamedTuple):
    """Windows that pass a threshold which at most a share of the controls passes."""

    score: str
    allowed: float
    """Share of the controls that may pass."""
    looked_at: int
    """Windows of the data that have the score."""
    controls: int
    """Controls that pass."""
    of_controls: Estimate
    """Share of the controls that passes."""
    passing: int
    """Windows of the data that pass; an estimate if only a sample has the score."""
    of_data: Estimate
    """Share of the data that passes."""
    excess: Estimate
    """Windows of the data that pass beyond the controls' share, at most all that pass. The score
    finds them familiar; whether they can be extracted stays open."""
    of_hidden: Estimate
    """Share that passes of the windows known to be hidden; no value without such windows."""


def above_controls(
    population: Population, score: str, allowed: float, resamples: Resamples
) -> AboveControls:
    """Count the windows that pass; some of the N windows are controls.

    A threshold just above the (k+1)-th highest of n controls passes k of them. The share of similar
    text that it passes is Beta(k+1, n-k) (Wilks 1941, tolerance limits), which lies within the
    exact interval (Clopper-Pearson) of k of n; that interval stays valid although the controls
    chose the threshold.

    The interval of ``excess`` has the confidence requested: it is made of the corners of two
    intervals that each miss with half the probability.
    """
    values, control, data = population.scores[score], population.control, population.data
    ranked = np.sort(values[control])[::-1]
    passed = values > ranked[int(allowed * len(ranked))]
    # Known to be hidden: by the known run, else by another attack.
    hidden = population.hidden_data if population.known is None else population.known_data
    each = replace(resamples, confidence=shared(resamples.confidence, 2))
    windows = float(population.weights[data].sum())
    share, false = (_rate(population, passed, mask, resamples) for mask in (data, control))
    own, wrong = (_rate(population, passed, mask, each) for mask in (data, control))
    return AboveControls(
        score=score,
        allowed=allowed,
        looked_at=int(data.sum()),
        controls=int(passed[control].sum()),
        of_controls=false,
        passing=round((share.value or 0.0) * windows),
        of_data=share,
        excess=_excess(own, wrong, windows),
        of_hidden=_rate(population, passed, hidden, resamples),
    )


def _rate(population: Population, passed: Bools, mask: Bools, resamples: Resamples) -> Estimate:
    """Return the share of the windows in a mask (N,) that pass (N,)."""
    return resamples.rate(passed[mask], population.clusters[mask], population.weights[mask])


def _excess(data: Estimate, controls: Estimate, windows: float) -> Estimate:
    """Return how many windows pass beyond the controls' share, from the corners of intervals."""
    corners = (
        (data.value, controls.value),
        (data.low, controls.high),
        (data.high, controls.low),
    )
    return Estimate(*(round(windows * max(0.0, (a or 0.0) - (b or 0.0))) for a, b in corners))


def above_table(counts: Sequence[AboveControls], confidence: float) -> FigureTable:
    """Table with a row for each score and threshold."""
    columns = [
        *(*heads("text", "score", "controls allowed"), *heads("count", "windows")),
        *(*heads("share", "controls above"), *heads("count", "windows above")),
        *(*heads("share", "share of windows"), *heads("count", "above expectation")),
        *heads("share", "known hidden above"),
    ]
    rows: list[Sequence[Cell]] = [
        (
            *(count.score, "none" if count.allowed == 0 else f"{100 * count.allowed:g} %"),
            *(count.looked_at, count.of_controls, count.passing, count.of_data, count.excess),
            None if count.of_hidden.value is None else count.of_hidden,
        )
        for count in counts
    ]
    return FigureTable(
        name="beyond",
        title="Windows that score above the controls but do not come out",
        says=(
            "At most 1 % of the controls, or none, lies above the threshold. Above expectation: "
            "the windows above it minus the number expected from the controls, with an interval "
            f"of {100 * confidence:g} % that includes the uncertainty of the controls. These "
            "windows are more familiar to the model than unseen text by that score; they need not "
            "be extractable. The rows do not estimate one number. Scores of perturbed weights "
            "come from a sample of the windows, weighted to represent all."
        ),
        columns=columns,
        rows=rows,
    )


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
    data, hidden, known = sampled.data, sampled.hidden_data, sampled.known_data
    groups: Mapping[str, Bools] = {
        BY_ATTACK: hidden,
        KNOWN_ONLY: known & ~hidden,
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
    columns = [
        *(*heads("text", "group"), *heads("count", "windows", "come out")),
        *heads("share", f"with any of {noise.draws}", "with one, mean"),
        *heads("nats", "NLL", "NLL rise, mean"),
    ]
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
