"""Certainty of a model around the border of prefix and suffix, by group.

Knows figures of each token of windows, and groups. Knows no model.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from memaudit.diagnose.disclosure import STRETCH
from memaudit.diagnose.passes import Found
from memaudit.diagnose.section import Section, group_line, heads
from memaudit.diagnose.signals.features import split_border
from memaudit.diagnose.signals.measure import Grouped, GroupName
from memaudit.report.curves import Axis
from memaudit.report.diagnosis import FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_CLUSTERS, Resamples
from memaudit.score.stats import Floats, Ints

MAX_POINTS = 300
"""Most positions in a plot; longer windows show those nearest the border."""
MAX_ROWS = 16
"""Rows of a curve's table."""


class ByGroup(NamedTuple):
    """One figure by group."""

    means: dict[GroupName, Estimate]
    contrast: dict[GroupName, Estimate]
    """Mean of the extracted windows minus that of another group."""


def describe_border(
    grouped: Grouped,
    figures: Found,
    prefix_tokens: int,
    near: int,
    resamples: Resamples,
    *,
    reveal: bool,
) -> Section:
    """Compare entropy and log p on either side of the border, and around it, by group."""
    before, after = split_border(figures, "entropy", prefix_tokens, near)
    columns = [before, after, before - after, *split_border(figures, "log_p", prefix_tokens, near)]
    values = np.stack(columns, axis=1)
    means = grouped.means(values, resamples)
    certainty, fall = (
        ByGroup(
            {group: mean[column] for group, mean in means.items()},
            _contrast(grouped, values[:, column], resamples),
        )
        for column in (0, 2)
    )
    table = FigureTable(
        "border",
        "Before and after the border",
        f"Means over the last {near} tokens of the prefix and the first {near} of the suffix (or "
        "as many as there are). Entropy is that of the model's distribution for each token, given "
        "the true text before it; log p is that of the token itself.",
        [
            *(*heads("text", "group"), *heads("count", "windows", "clusters")),
            *heads("nats", "entropy before", "entropy after", "fall over the border"),
            *heads("nats", "log p before", "log p after"),
        ],
        [
            [group, int(grouped.of(group).sum()), grouped.count_clusters(group), *mean]
            for group, mean in means.items()
        ],
    )
    curves = [
        plot_curve(curve, grouped, figures, prefix_tokens, resamples, reveal=reveal)
        for curve in CURVES
    ]
    return Section(
        _findings(certainty, fall, grouped, near),
        [],
        [table, *(table for table, _ in curves)],
        [plot for _, plot in curves],
    )


def _findings(before: ByGroup, fall: ByGroup, grouped: Grouped, near: int) -> list[str]:
    """Describe the entropy before the border and its fall over the border."""
    if all(estimate.value is None for estimate in before.means.values()):
        return ["A prefix of one token has no entropy before the border to compare with."]
    findings = [
        f"Entropy over the last tokens of the prefix, {near} at most, in nats: "
        f"{_by_group(before, grouped)}.",
        f"Fall of entropy over the border, in nats: {_by_group(fall, grouped)}.",
    ]
    compared = [estimate for _, estimate in _reliable(fall, grouped)]
    if compared and all((estimate.low or 0) <= 0 <= (estimate.high or 0) for estimate in compared):
        findings[1] += " Extracted windows show no larger fall than the other groups."
    return findings


def _by_group(sides: ByGroup, grouped: Grouped) -> str:
    """``extracted 0.79 (0.62 to 1.03), untouched ...; extracted minus untouched ...``."""
    means = ", ".join(f"{group} {estimate}" for group, estimate in sides.means.items())
    differences = [f"minus {group} {estimate}" for group, estimate in _reliable(sides, grouped)]
    return f"{means}; extracted {', '.join(differences)}" if differences else means


def _reliable(sides: ByGroup, grouped: Grouped) -> list[tuple[GroupName, Estimate]]:
    """Return the differences from untouched windows and controls that have enough clusters."""
    if grouped.count_clusters("extracted") < LEAST_CLUSTERS:
        return []
    return [
        (group, estimate)
        for group, estimate in sides.contrast.items()
        if group in ("untouched", "controls")
        and estimate.value is not None
        and grouped.count_clusters(group) >= LEAST_CLUSTERS
    ]


def _contrast(grouped: Grouped, values: Floats, resamples: Resamples) -> dict[GroupName, Estimate]:
    """Return the mean of values (N,) of extracted windows minus that of each other group."""
    extracted = grouped.of("extracted")
    differences: dict[GroupName, Estimate] = {}
    for group in grouped.present:
        both = extracted | grouped.of(group)
        if group != "extracted" and extracted.any():
            differences[group] = resamples.difference(
                values[both], extracted[both], grouped.clusters[both]
            )
    return differences


class Curve(NamedTuple):
    """One figure over the positions of a window."""

    figure: str
    """Key in the figures of the passes: ``entropy`` or ``log_p``."""
    name: str
    title: str
    label: str


CURVES = (
    Curve("entropy", "border-entropy", "Entropy around the border", "entropy, nats"),
    Curve("log_p", "border-log-p", "Log p of the true token", "mean log p, nats"),
)


class PositionGroups(NamedTuple):
    """Single positions, or groups of adjacent positions such as ``-10 to -1``."""

    names: list[str]
    middles: list[float]
    values: Floats
    """(N,G) mean over the positions of each group."""


def each_position(values: Floats, prefix_tokens: int) -> PositionGroups:
    """Return a figure (N,P+S-1) at single positions, those nearest the border."""
    positions = np.arange(values.shape[1]) + 1 - prefix_tokens
    nearest = np.sort(np.argsort(np.abs(positions), kind="stable")[:MAX_POINTS])
    names = [str(position) for position in positions[nearest]]
    return PositionGroups(names, positions[nearest].astype(np.float64).tolist(), values[:, nearest])


def group_positions(values: Floats, prefix_tokens: int) -> PositionGroups:
    """Return means of a figure (N,P+S-1) over groups of positions, none across the border.

    Figures of single positions would reveal the text token by token. Positions left over on a
    side join the group next to them; a side of fewer positions is one group.
    """
    positions = np.arange(values.shape[1]) + 1 - prefix_tokens
    before, after = np.flatnonzero(positions < 0), np.flatnonzero(positions >= 0)
    count = max(1, len(before) // STRETCH)
    parts = [part[::-1] for part in _split(before[::-1], count)][::-1] if len(before) else []
    parts += _split(after, max(1, len(after) // STRETCH))
    return PositionGroups(
        [f"{positions[part[0]]} to {positions[part[-1]]}" for part in parts],
        [float(positions[part].mean()) for part in parts],
        np.stack([values[:, part].mean(axis=1) for part in parts], axis=1),
    )


def _split(places: Ints, count: int) -> list[Ints]:
    """Split into groups of `STRETCH` places; the last group takes the rest."""
    return np.split(places, [STRETCH * number for number in range(1, count)])


def plot_curve(
    curve: Curve,
    grouped: Grouped,
    figures: Found,
    prefix_tokens: int,
    resamples: Resamples,
    *,
    reveal: bool,
) -> tuple[FigureTable, Plot]:
    """Plot the mean of a figure over the positions by group; the suffix starts at position 0.

    reveal: show single positions rather than groups of them.
    """
    arrange = each_position if reveal else group_positions
    positions = arrange(figures[curve.figure].astype(np.float64), prefix_tokens)
    means = grouped.means(positions.values, resamples)
    last, whole = len(positions.names) - 1, np.asarray(~np.isnan(positions.values).any(axis=1))
    lacking = (
        ""
        if whole.all()
        else (
            " A window takes part where its prefix reaches: of the "
            f"{len(whole):,} windows, {int(whole.sum()):,} have all positions."
        )
    )
    after = int(np.searchsorted(positions.middles, 0.0))
    # The table has a grid of positions, both ends and both sides of the border.
    grid = {0, last, max(0, after - 1), min(last, after)}
    grid |= set(np.linspace(0, last, MAX_ROWS - 4).round().astype(int).tolist())
    table = FigureTable(
        curve.name,
        curve.title,
        "Means at some of the positions; 0 is the first token of the suffix, -1 the last of the "
        f"prefix. Without --reveal, these are means over groups of positions.{lacking}",
        [*heads("text", "position"), *heads("nats", *means)],
        [
            [positions.names[place], *(mean[place] for mean in means.values())]
            for place in sorted(grid)
        ],
    )
    plot = Plot(
        curve.name,
        curve.title,
        "Mean over the windows of each group, with an interval over clusters. The suffix starts "
        "at position 0.",
        Axis("position, tokens from the first of the suffix"),
        Axis(curve.label),
        [group_line(group, positions.middles, mean) for group, mean in means.items()],
    )
    return table, plot
