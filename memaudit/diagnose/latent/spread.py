"""How the suffix NLL of each group of windows is spread: where the groups part and overlap.

Knows NLLs and clusters. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from memaudit.config.settings import ScoreSettings
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Measure, Plot
from memaudit.score.detection import Detection
from memaudit.score.scores import rate_of
from memaudit.score.stats import Bools, Floats, Interval, Ints

_POINTS, _ROWS = 40, 11
"""Places where curves and the table are read off."""
_HIGHEST = 0.98
"""Share of all windows that the places reach."""


class Group(NamedTuple):
    """Windows of one kind."""

    nll: Floats
    """(n,) nats/token."""
    clusters: Ints
    colour: str
    dash: str = "-"


def spread_of(
    groups: Mapping[str, Group], settings: ScoreSettings, seed: int
) -> tuple[FigureTable, Plot]:
    """Share of each group, none of them empty, whose NLL is at most so high."""
    every = np.concatenate([group.nll for group in groups.values()])
    highest = float(f"{np.quantile(every, _HIGHEST):.1e}")  # two digits: it is nearly one window's
    places = np.linspace(0, highest, _POINTS + 1)[1:]
    rng = np.random.default_rng([seed, 4])
    curves = {
        name: _rising(
            [_share(group.nll <= place, group.clusters, settings, rng) for place in places]
        )
        for name, group in groups.items()
    }
    title = "How likely suffixes are to the model, whether or not they come out"
    says = (
        "Share of the windows whose suffix NLL is at most so high. Where the windows that do not "
        "come out stand left of the controls, the model knows them better than text like them."
    )
    lines = [
        Line(
            name=name,
            colour=group.colour,
            x=places.tolist(),
            y=[one.value for one in curves[name]],
            low=[one.interval.low for one in curves[name]],
            high=[one.interval.high for one in curves[name]],
            dash=group.dash,
        )
        for name, group in groups.items()
    ]
    plot = Plot(
        "nll", title, says, Axis("suffix NLL, nats/token"), Axis("share", low=0, high=1), lines
    )
    columns = [Column("NLL at most", "nats"), *(Column(name, "share") for name in groups)]
    rows: list[Sequence[Cell]] = [
        (float(places[at]), *(Measure.of(*curves[name][at]) for name in groups))
        for at in np.linspace(0, _POINTS - 1, _ROWS).astype(int)
    ]
    return FigureTable("nll", title, says, columns, rows), plot


def _rising(curve: Sequence[Detection]) -> list[Detection]:
    """The curve only rises, so what bounds it at one place bounds it at those beyond.

    Where all windows agree, the bound of that place alone would be wider than its neighbours'.
    """
    low = np.maximum.accumulate([one.interval.low for one in curve])
    high = np.minimum.accumulate([one.interval.high for one in reversed(curve)])[::-1]
    return [
        Detection(one.value, Interval(float(least), float(most)))
        for one, least, most in zip(curve, low, high, strict=True)
    ]


def _share(
    below: Bools, clusters: Ints, settings: ScoreSettings, rng: np.random.Generator
) -> Detection:
    rate = rate_of(below, clusters, settings, rng)
    low = min(rate.interval.low, rate.clustered.low)
    high = max(rate.interval.high, rate.clustered.high)
    return Detection(rate.estimate, Interval(low, high))
