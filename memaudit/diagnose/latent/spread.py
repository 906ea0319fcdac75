"""How the suffix NLL of each group of windows is spread: where the groups part and overlap.

Knows NLLs and clusters. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Floats, Ints

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


def spread_of(groups: Mapping[str, Group], resamples: Resamples) -> tuple[FigureTable, Plot]:
    """Share of each group, none of them empty, whose NLL is at most so high."""
    every = np.concatenate([group.nll for group in groups.values()])
    highest = float(f"{np.quantile(every, _HIGHEST):.1e}")  # two digits: it is nearly one window's
    places = np.linspace(0, highest, _POINTS + 1)[1:]
    curves = {
        name: _rising([resamples.rate(group.nll <= place, group.clusters) for place in places])
        for name, group in groups.items()
    }
    title = "How likely suffixes are to the model, whether or not they come out"
    says = (
        "Share of the windows whose suffix NLL is at most so high. Where the windows that do not "
        "come out stand left of the controls, the model knows them better than text like them."
    )
    lines = [
        Line.of(name, group.colour, places.tolist(), curves[name], dash=group.dash)
        for name, group in groups.items()
    ]
    plot = Plot(
        "nll", title, says, Axis("suffix NLL, nats/token"), Axis("share", low=0, high=1), lines
    )
    columns = [Column("NLL at most", "nats"), *(Column(name, "share") for name in groups)]
    rows: list[Sequence[Cell]] = [
        (float(places[at]), *(curves[name][at] for name in groups))
        for at in np.linspace(0, _POINTS - 1, _ROWS).astype(int)
    ]
    return FigureTable("nll", title, says, columns, rows), plot


def _rising(curve: Sequence[Estimate]) -> list[Estimate]:
    """The curve only rises, so what bounds it at one place bounds it at those beyond.

    Where all windows agree, the bound of that place alone would be wider than its neighbours'.
    """
    low = np.maximum.accumulate([one.low or 0.0 for one in curve])
    high = np.minimum.accumulate([1.0 if one.high is None else one.high for one in curve[::-1]])
    return [
        Estimate(one.value, float(least), float(most))
        for one, least, most in zip(curve, low, high[::-1], strict=True)
    ]
