"""Distribution of the suffix NLL by group of windows.

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
"""Points of the plot, and rows of the table."""
_HIGHEST = 0.98
"""Share of all windows below the last point."""


class Group(NamedTuple):
    """Suffix NLLs of a group of n windows, and its line in the plot."""

    nll: Floats
    """(n,) nats/token."""
    clusters: Ints
    colour: str
    dash: str = "-"


def spread_of(groups: Mapping[str, Group], resamples: Resamples) -> tuple[FigureTable, Plot]:
    """Table and plot of the share of each non-empty group below each NLL."""
    every = np.concatenate([group.nll for group in groups.values()])
    highest = float(f"{np.quantile(every, _HIGHEST):.1e}")  # two digits: it is nearly one window's
    places = np.linspace(0, highest, _POINTS + 1)[1:]
    curves = {
        name: _rising([resamples.rate(group.nll <= place, group.clusters) for place in places])
        for name, group in groups.items()
    }
    title = "Suffix NLL by group"
    caption = (
        "Share of the windows up to each suffix NLL. A curve left of that of the controls means "
        "that the model knows these windows better than similar text."
    )
    lines = [
        Line.of(name, group.colour, places.tolist(), curves[name], dash=group.dash)
        for name, group in groups.items()
    ]
    plot = Plot(
        "nll", title, caption, Axis("suffix NLL, nats/token"), Axis("share", low=0, high=1), lines
    )
    columns = [Column("NLL at most", "nats"), *(Column(name, "share") for name in groups)]
    rows: list[Sequence[Cell]] = [
        (float(places[at]), *(curves[name][at] for name in groups))
        for at in np.linspace(0, _POINTS - 1, _ROWS).astype(int)
    ]
    return FigureTable("nll", title, caption, columns, rows), plot


def _rising(curve: Sequence[Estimate]) -> list[Estimate]:
    """Make the bounds of a rising curve rise too.

    If all windows agree at a point, its own bound would be wider than its neighbours'.
    """
    low = np.maximum.accumulate([estimate.low or 0.0 for estimate in curve])
    high = np.minimum.accumulate(
        [1.0 if estimate.high is None else estimate.high for estimate in curve[::-1]]
    )
    return [
        Estimate(estimate.value, float(lower), float(upper))
        for estimate, lower, upper in zip(curve, low, high[::-1], strict=True)
    ]
