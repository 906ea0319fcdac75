"""How many windows are more familiar than the controls make expect, by one score at a time.

Knows scored windows. Knows nothing of models or attacks.

A threshold just above the (k+1)-th highest of n controls lets pass k of them, and of text like
them a share that is Beta(k+1, n-k) (Wilks 1941, tolerance limits), which is within the exact
interval (Clopper-Pearson) of k of n: that one stays valid though the controls chose the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.latent.population import Population
from memaudit.diagnose.sure import Sure, outer
from memaudit.report.diagnosis import Cell, Column, FigureTable, Measure
from memaudit.score.stats import Bools, Floats, Interval, agreeing, clopper_pearson

ALLOWED = (0.01, 0.0)
"""Shares of the controls that a threshold may let pass."""


class Beyond(NamedTuple):
    """What passes the threshold that at most a share of the controls passes."""

    score: str
    allowed: float
    looked_at: int
    """Windows of the data that this is known from."""
    controls: int
    """Controls that pass, of those looked at."""
    of_controls: Measure
    passing: int
    """Windows of the data that pass; an estimate where a part was looked at, as the rest."""
    of_data: Measure
    excess: Measure
    """Windows of the data above what controls make expect, at most all that pass: of text that
    this score finds familiar, not of text that can be extracted."""
    of_hidden: Measure
    """Share of those that pass of the windows known to be hidden; no figure without such."""


def beyond(population: Population, score: str, allowed: float, sure: Sure) -> Beyond:
    """Of N windows with controls among them.

    The interval of ``excess`` holds with the confidence asked for: the corners of two intervals
    that each miss with half the probability.
    """
    values, control = population.scores[score], population.control
    passed = values > _threshold(values[control], allowed)
    each = replace(sure, confidence=1 - (1 - sure.confidence) / 2)
    windows = float(population.weights[~control].sum())
    share, false = (_rate(population, passed, mask, sure) for mask in (~control, control))
    data, wrong = (_ends(population, passed, mask, each) for mask in (~control, control))
    assert share.value is not None
    assert false.value is not None
    above = (share.value - false.value, data.low - wrong.high, data.high - wrong.low)
    return Beyond(
        score=score,
        allowed=allowed,
        looked_at=int((~control).sum()),
        controls=int(passed[control].sum()),
        of_controls=false,
        passing=round(share.value * windows),
        of_data=share,
        excess=Measure(*(round(windows * max(0.0, one)) for one in above)),
        of_hidden=_rate(population, passed, _hidden(population), sure),
    )


def _hidden(population: Population) -> Bools:
    """What is known to be: by another run, else by another attack."""
    hidden = population.hidden if population.known is None else population.known
    return hidden & ~population.control


def _threshold(controls: Floats, allowed: float) -> float:
    """What at most this share of them is above."""
    return float(np.sort(controls)[::-1][int(allowed * len(controls))])


def _rate(population: Population, passed: Bools, mask: Bools, sure: Sure) -> Measure:
    if not mask.any() or not sure.disclosure.covers(population.clusters[mask]):
        return Measure(None, None, None)
    share = float(np.average(passed[mask], weights=population.weights[mask]))
    return Measure.of(share, _ends(population, passed, mask, sure))


def _ends(population: Population, passed: Bools, mask: Bools, sure: Sure) -> Interval:
    """Of the share that passes: outer ends of the exact interval and the bootstrap over clusters.

    The exact one takes it for a share of as many windows as were looked at.
    """
    hit, weights = passed[mask], population.weights[mask]
    _, cluster = np.unique(population.clusters[mask], return_inverse=True)
    whole = np.bincount(cluster, weights=weights)
    part = np.bincount(cluster, weights=weights * hit)
    share = float(part.sum() / whole.sum())
    exact = clopper_pearson(round(share * len(hit)), len(hit), sure.confidence)
    if hit.all() or not hit.any():
        alone = agreeing(whole, bool(hit.all()), sure.confidence)
        return outer(exact, alone)
    rng = np.random.default_rng([sure.seed, 6])
    drawn = np.empty(sure.resamples)
    for number in range(sure.resamples):
        times = np.bincount(rng.integers(len(whole), size=len(whole)), minlength=len(whole))
        drawn[number] = (times @ part) / (times @ whole)
    tail = (1 - sure.confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return outer(exact, Interval(float(low), float(high)))


def beyond_table(found: Sequence[Beyond], confidence: float) -> FigureTable:
    """A row for each score and threshold."""
    columns = (
        *(Column("score", "text"), Column("controls allowed", "text"), Column("windows", "count")),
        *(Column("controls above", "share"), Column("windows above", "count")),
        *(Column("share of windows", "share"), Column("above expectation", "count")),
        Column("known hidden above", "share"),
    )
    rows: list[Sequence[Cell]] = [
        (
            *(one.score, "none" if one.allowed == 0 else f"{100 * one.allowed:g} %"),
            *(one.looked_at, one.of_controls, one.passing, one.of_data, one.excess),
            None if one.of_hidden.value is None else one.of_hidden,
        )
        for one in found
    ]
    return FigureTable(
        name="beyond",
        title="Windows that score above the controls though they do not come out",
        says=(
            "The threshold is where at most 1 % of the controls, or none, lies above. Above "
            "expectation: windows above it minus as many as the controls make expect, with an "
            f"interval of {100 * confidence:g} % that allows for the controls' own. It counts "
            "windows that one score finds more familiar than text that was not seen, not windows "
            "that can be extracted; the rows are not estimates of one number. Scores of "
            "perturbed weights are known from a part of the windows, weighted to stand for all."
        ),
        columns=columns,
        rows=rows,
    )
