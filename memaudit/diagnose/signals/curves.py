"""What a model is sure of around the border of prefix and suffix, group by group.

Knows figures of each token of windows, and groups. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.disclosure import STRETCH
from memaudit.diagnose.passes import Found
from memaudit.diagnose.signals.groups import COLOURS, GroupName, Look
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Floats, Ints

MOST_POINTS = 300
"""Positions of a curve that are drawn; of longer windows those nearest the border."""
MOST_ROWS = 16
"""Positions of a curve that stand in its table."""


class Sides(NamedTuple):
    """One figure by group."""

    means: dict[GroupName, Estimate]
    contrast: dict[GroupName, Estimate]
    """Mean of the extracted windows minus that of another group."""


class Border(NamedTuple):
    """What changes over the border, by group."""

    table: FigureTable
    before: Sides
    """Entropy before the border, nats."""
    fall: Sides
    """That before minus that after it."""


def split_border(found: Found, name: str, prefix_tokens: int, near: int) -> tuple[Floats, Floats]:
    """Means of a figure (N,P+S-1) over the last ``near`` prefix and the first suffix tokens (N,).

    The same number of tokens on either side, so that neither has more context to tell by; NaN
    before the border where P is 1, and nothing foretells a prefix token.
    """
    values = found[name].astype(np.float64)
    before, after = values[:, : prefix_tokens - 1], values[:, prefix_tokens - 1 :]
    count = min(near, before.shape[1], after.shape[1])
    if not count:
        return np.full(len(values), np.nan), after[:, :near].mean(axis=1)
    return before[:, -count:].mean(axis=1), after[:, :count].mean(axis=1)


def compare_border(
    look: Look, found: Found, prefix_tokens: int, near: int, resamples: Resamples
) -> Border:
    """Entropy and log p on either side of the border, by group."""
    before, after = split_border(found, "entropy", prefix_tokens, near)
    columns = [before, after, before - after, *split_border(found, "log_p", prefix_tokens, near)]
    values = np.stack(columns, axis=1)
    means = {
        group: resamples.each_mean(values[look.of(group)], look.clusters[look.of(group)])
        for group in look.present
    }
    rows: list[list[Cell]] = [
        [
            group,
            int(look.of(group).sum()),
            len(np.unique(look.clusters[look.of(group)])),
            *mean,
        ]
        for group, mean in means.items()
    ]
    before_all, fall = (
        Sides(
            {group: mean[column] for group, mean in means.items()},
            _contrast(look, values[:, column], resamples),
        )
        for column in (0, 2)
    )
    return Border(_border_table(rows, near), before_all, fall)


def _contrast(look: Look, values: Floats, resamples: Resamples) -> dict[GroupName, Estimate]:
    """Of extracted windows to each other group, where there are such; values (N,)."""
    extracted = look.of("extracted")
    found: dict[GroupName, Estimate] = {}
    for group in look.present:
        both = extracted | look.of(group)
        if group != "extracted" and extracted.any():
            found[group] = resamples.difference(values[both], extracted[both], look.clusters[both])
    return found


def _border_table(rows: Sequence[Sequence[Cell]], near: int) -> FigureTable:
    heads = [Column("group", "text"), Column("windows", "count"), Column("clusters", "count")]
    heads += [
        Column(name, "nats")
        for name in (
            *("entropy before", "entropy after", "fall over the border"),
            *("log p before", "log p after"),
        )
    ]
    return FigureTable(
        "border",
        "Before and after the border",
        f"Means over the last {near} tokens of the prefix and the first {near} of the suffix (or "
        "as many as there are). Entropy is that of the distribution each token is foretold by; "
        "log p is that of the token itself, the true text being given up to it.",
        heads,
        rows,
    )


class Curve(NamedTuple):
    """One figure over the positions of a window."""

    figure: str
    """Of the passes: ``entropy`` or ``log_p``."""
    name: str
    title: str
    label: str


CURVES = (
    Curve("entropy", "border-entropy", "Entropy around the border", "entropy, nats"),
    Curve("log_p", "border-log-p", "Log p of the true token", "mean log p, nats"),
)


class Stretches(NamedTuple):
    """Positions put together: ``-10 to -1``; or each for itself."""

    names: list[str]
    middles: list[float]
    values: Floats
    """(N,G) means over the positions of each."""


def each_position(values: Floats, prefix_tokens: int) -> Stretches:
    """Return a figure (N,P+S-1) as it is, of the positions nearest the border."""
    positions = np.arange(values.shape[1]) + 1 - prefix_tokens
    nearest = np.sort(np.argsort(np.abs(positions), kind="stable")[:MOST_POINTS])
    names = [str(position) for position in positions[nearest]]
    return Stretches(names, positions[nearest].astype(np.float64).tolist(), values[:, nearest])


def put_together(values: Floats, prefix_tokens: int) -> Stretches:
    """Return means of a figure (N,P+S-1) over stretches of positions, none across the border.

    Figures of single positions would tell one token after the other. What is left of a side
    joins the stretch next to it; a side of fewer positions is one stretch.
    """
    positions = np.arange(values.shape[1]) + 1 - prefix_tokens
    before, after = np.flatnonzero(positions < 0), np.flatnonzero(positions >= 0)
    count = max(1, len(before) // STRETCH)
    parts = [part[::-1] for part in _split(before[::-1], count)][::-1] if len(before) else []
    parts += _split(after, max(1, len(after) // STRETCH))
    return Stretches(
        [f"{positions[part[0]]} to {positions[part[-1]]}" for part in parts],
        [float(positions[part].mean()) for part in parts],
        np.stack([values[:, part].mean(axis=1) for part in parts], axis=1),
    )


def _split(places: Ints, count: int) -> list[Ints]:
    """Stretches of `STRETCH` places, the rest with the last of them."""
    return np.split(places, [STRETCH * number for number in range(1, count)])


def draw_curve(
    curve: Curve,
    look: Look,
    found: Found,
    prefix_tokens: int,
    resamples: Resamples,
    *,
    reveal: bool,
) -> tuple[FigureTable, Plot]:
    """Mean of a figure over a window's positions, by group; position 0 is the first of the suffix.

    reveal: whether each position is drawn, rather than stretches of them.
    """
    arrange = each_position if reveal else put_together
    stretches = arrange(found[curve.figure].astype(np.float64), prefix_tokens)
    means = {
        group: resamples.each_mean(stretches.values[look.of(group)], look.clusters[look.of(group)])
        for group in look.present
    }
    return _curve_table(curve, stretches, means), _curve_plot(curve, stretches, means)


def _curve_plot(curve: Curve, stretches: Stretches, means: dict[GroupName, list[Estimate]]) -> Plot:
    lines = [
        Line.of(
            group, COLOURS[group], stretches.middles, mean, dash=":" if group == "controls" else "-"
        )
        for group, mean in means.items()
    ]
    says = (
        "Mean over the windows of each group, with its interval over clusters; the prefix ends "
        "before 0, where the suffix starts."
    )
    return Plot(
        curve.name,
        curve.title,
        says,
        Axis("position, tokens from the first of the suffix"),
        Axis(curve.label),
        lines,
    )


def _curve_table(
    curve: Curve, stretches: Stretches, means: dict[GroupName, list[Estimate]]
) -> FigureTable:
    """A grid of positions that has the ends and both sides of the border."""
    last = len(stretches.names) - 1
    after = int(np.searchsorted(stretches.middles, 0.0))
    grid = {0, last, max(0, after - 1), min(last, after)}
    grid |= set(np.linspace(0, last, MOST_ROWS - 4).round().astype(int).tolist())
    rows: list[list[Cell]] = [
        [stretches.names[place], *(mean[place] for mean in means.values())]
        for place in sorted(grid)
    ]
    return FigureTable(
        curve.name,
        curve.title,
        "Means at some of the positions; 0 is the first token of the suffix, -1 the last of the "
        "prefix. Without --reveal positions are put together.",
        [Column("position", "text"), *(Column(group, "nats") for group in means)],
        rows,
    )
