"""How many windows are remembered beyond those that come out, held against the controls.

Knows scored windows. Knows nothing of models or attacks.

A threshold just above the (k+1)-th highest of n controls lets pass k of them, and of text like
them a share that is Beta(k+1, n-k) (Wilks 1941, tolerance limits), which is within the exact
interval (Clopper-Pearson) of k of n: that one stays valid though the controls chose the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.latent_population import Population
from memaudit.diagnosis import Cell, Column, FigureTable, Measure
from memaudit.score.stats import Bools, Floats, Interval, clopper_pearson, clustered_rate

ALLOWED = (0.01, 0.0)
"""Shares of the controls that a threshold may let pass."""


class Beyond(NamedTuple):
    """What passes the threshold that at most a share of the controls passes."""

    score: str
    allowed: float
    threshold: float
    controls: int
    """Controls that pass."""
    of_controls: Measure
    passing: int
    """Windows of the data that pass."""
    of_data: Measure
    remembered: Measure
    """Windows of the data above what controls make expect, at most all that pass."""
    hidden: int
    """Of those that pass, windows that another attack extracts."""


def beyond(
    population: Population, score: str, allowed: float, *, confidence: float, resamples: int
) -> Beyond:
    """Of N windows with controls among them.

    The interval of ``remembered`` holds with ``confidence``: the corners of two intervals that each
    miss with half the probability.
    """
    values, control = population.scores[score], population.control
    threshold = _threshold(values[control], allowed)
    passed = values > threshold
    each = 1 - (1 - confidence) / 2
    rates = {
        (part, level): _rate(population, passed, part, level, resamples)
        for part in ("data", "control")
        for level in (confidence, each)
    }
    windows = int((~control).sum())
    passing = int(passed[~control].sum())
    share, false = passing / windows, float(passed[control].mean())
    data, wrong = rates["data", each], rates["control", each]
    ends = Interval(data.low - wrong.high, data.high - wrong.low)
    most = [round(windows * max(0.0, one)) for one in (share - false, *ends)]
    return Beyond(
        score=score,
        allowed=allowed,
        threshold=threshold,
        controls=int(passed[control].sum()),
        of_controls=Measure.of(false, rates["control", confidence]),
        passing=passing,
        of_data=Measure.of(share, rates["data", confidence]),
        remembered=Measure(*most),
        hidden=int((passed & population.hidden & ~control).sum()),
    )


def _threshold(controls: Floats, allowed: float) -> float:
    """What at most this share of them is above."""
    return float(np.sort(controls)[::-1][int(allowed * len(controls))])


def _rate(
    population: Population,
    passed: Bools,
    part: str,
    confidence: float,
    resamples: int,
) -> Interval:
    """Outer ends of the exact and the clustered interval of the share that passes."""
    mask = population.control if part == "control" else ~population.control
    hit, clusters = passed[mask], population.clusters[mask]
    exact = clopper_pearson(int(hit.sum()), len(hit), confidence)
    clustered = clustered_rate(
        hit,
        clusters,
        confidence=confidence,
        resamples=resamples,
        rng=np.random.default_rng([0, len(hit)]),
    )
    return Interval(min(exact.low, clustered.low), max(exact.high, clustered.high))


def beyond_table(found: Sequence[Beyond], confidence: float) -> FigureTable:
    """A row for each score and threshold."""
    columns = (
        *(Column("score", "text"), Column("controls allowed", "text")),
        *(Column("controls above", "share"), Column("windows above", "count")),
        *(Column("share of windows", "share"), Column("remembered beyond", "count")),
        Column("known hidden above", "count"),
    )
    rows: list[Sequence[Cell]] = [
        (
            *(one.score, "none" if one.allowed == 0 else f"{100 * one.allowed:g} %"),
            *(one.of_controls, one.passing, one.of_data, one.remembered, one.hidden),
        )
        for one in found
    ]
    return FigureTable(
        name="beyond",
        title="Windows that score above the controls though they do not come out",
        says=(
            "The threshold is where at most 1 % of the controls, or none, lies above. Remembered "
            "beyond: windows above it minus as many as the controls make expect, with an interval "
            f"of {100 * confidence:g} % that allows for the controls' own. It counts windows that "
            "the model knows better than text like it, not windows that come out."
        ),
        columns=columns,
        rows=rows,
    )
