"""Windows above a threshold that few controls pass, by one score at a time.

Knows scored windows. Knows nothing of models or attacks.

A threshold just above the (k+1)-th highest of n controls passes k of them. The share of similar
text that it passes is Beta(k+1, n-k) (Wilks 1941, tolerance limits), which lies within the exact
interval (Clopper-Pearson) of k of n; that interval stays valid although the controls chose the
threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.latent.population import Population
from memaudit.report.diagnosis import Cell, Column, FigureTable
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples, shared
from memaudit.score.stats import Bools, Floats

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

    The interval of ``excess`` has the confidence requested: it is made of the corners of two
    intervals that each miss with half the probability.
    """
    values, control = population.scores[score], population.control
    passed = values > _threshold(values[control], allowed)
    each = replace(resamples, confidence=shared(resamples.confidence, 2))
    windows = float(population.weights[~control].sum())
    share, false = (_rate(population, passed, mask, resamples) for mask in (~control, control))
    data, wrong = (_rate(population, passed, mask, each) for mask in (~control, control))
    return AboveControls(
        score=score,
        allowed=allowed,
        looked_at=int((~control).sum()),
        controls=int(passed[control].sum()),
        of_controls=false,
        passing=round((share.value or 0.0) * windows),
        of_data=share,
        excess=_excess(data, wrong, windows),
        of_hidden=_rate(population, passed, _hidden(population), resamples),
    )


def _hidden(population: Population) -> Bools:
    """(N,) windows known to be hidden: by the known run, else by another attack."""
    hidden = population.hidden if population.known is None else population.known
    return hidden & ~population.control


def _threshold(controls: Floats, allowed: float) -> float:
    """Return the value that at most this share of the controls exceeds."""
    return float(np.sort(controls)[::-1][int(allowed * len(controls))])


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
    columns = (
        *(Column("score", "text"), Column("controls allowed", "text"), Column("windows", "count")),
        *(Column("controls above", "share"), Column("windows above", "count")),
        *(Column("share of windows", "share"), Column("above expectation", "count")),
        Column("known hidden above", "share"),
    )
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
