"""Tables and plots of the silenced units. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.neurons.silencing import EFFECT_FOR, Goal, Kind, Ranking
from memaudit.diagnose.neurons.unit_report import GOALS, GROUPS, Figures, overlap
from memaudit.diagnose.section import Section, heads
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, FigureTable, Plot
from memaudit.score.estimate import Estimate

_RANKINGS: dict[Ranking | None, tuple[str, str]] = {
    None: ("by effect", "-"),
    "size": ("by activation", "--"),
    "random": ("random", ":"),
}
"""Names and dashes; None is the ranking for the goal."""
_COLOURS: dict[Goal, str] = {"stopped": "series-1", "erased": "series-4"}
_KINDS: dict[Kind, str] = {"found": "found", "random": "random, same blocks"}


def silencing_section(figures: Figures, findings: Sequence[str], notes: Sequence[str]) -> Section:
    """Return all tables and plots, with these findings and notes."""
    reported = figures.reported
    curves = _reached(figures)
    tables, plots = [_sets(figures), _rankings(figures, curves)], [_rankings_plot(figures, curves)]
    if reported:
        shares = {outcome.goal: figures.by_block(outcome) for outcome in reported}
        tables += [_controls(figures), _cost(figures), _depth(figures, shares)]
        tables += _overlap(figures)
        if len(figures.silencing.units.blocks) > 1:
            plots.append(_depth_plot(figures, shares))
    return Section(findings, notes, tables, plots)


def _sets(figures: Figures) -> FigureTable:
    rows: list[list[Cell]] = []
    for outcome in figures.silencing.outcomes:
        sizes = [len(members) for members in outcome.members if outcome.disclosed]
        has_set = np.array([unit_set.stopped for unit_set in outcome.sets])
        median = figures.sizes(outcome)
        quarters: list[Cell] = [None, None]
        if sizes:
            ends = np.quantile(sizes, [0.25, 0.75], method="inverted_cdf")
            quarters = [int(size) for size in ends]
        share = None if median.value is None else median.value / figures.silencing.units.total
        windows, has = len(outcome.sets), figures.share(has_set)
        row: list[Cell] = [GOALS[outcome.goal], outcome.need, windows, has, median]
        rows.append([*row, *quarters, share, outcome.minimal])
    return FigureTable(
        name="unit-sets",
        title="Units whose silencing stops an extraction",
        says=(
            "The shortest head of the ranking by effect that makes this many suffix tokens wrong, "
            "without the units that it does not need. In the median, windows without a set count "
            "as infinite; the quartiles are of the windows with a set. Minimal: trials showed that "
            "every unit is needed."
        ),
        columns=[
            *heads("text", "goal"),
            *heads("count", "tokens wrong", "windows"),
            *heads("share", "set found"),
            *heads("number", "median units"),
            *heads("count", "first quartile", "third quartile"),
            *heads("share", "of all units"),
            *heads("count", "minimal sets"),
        ],
        rows=rows,
    )


def _controls(figures: Figures) -> FigureTable:
    return FigureTable(
        name="unit-controls",
        title="Other sets of the same size",
        says=(
            "Share of the windows with a set for which as many other units reach the same goal: "
            "random units of the same blocks, and the units furthest from their mean."
        ),
        columns=[
            *heads("text", "goal"),
            *heads("count", "windows"),
            *heads("share", "random units", "largest activations"),
        ],
        rows=[
            [
                GOALS[outcome.goal],
                len(outcome.with_set),
                figures.mean_share(outcome.random),
                figures.share(outcome.largest),
            ]
            for outcome in figures.reported
        ],
    )


def _cost(figures: Figures) -> FigureTable:
    rows: list[list[Cell]] = []
    for outcome in figures.reported:
        for (group, kind), cost in outcome.costs.items():
            extracted = group == "extracted"
            rows.append(
                [
                    f"{GOALS[outcome.goal]}, {_KINDS[kind]}",
                    GROUPS[group],
                    cost.rise.shape[1],
                    cost.before,
                    figures.cost(outcome, cost, cost.rise),
                    figures.cost(outcome, cost, cost.lost) if extracted else None,
                    figures.cost(outcome, cost, cost.reached) if extracted else None,
                ]
            )
    return FigureTable(
        name="unit-cost",
        title="Cost of one window's units for other windows",
        says=(
            "Each set is silenced in passes over windows of other clusters: the rise of their "
            "suffix NLL, and the share of extracted windows that are no longer extracted, or that "
            "reach the goal, too."
        ),
        columns=[
            *heads("text", "units", "measured on"),
            *heads("count", "windows"),
            *heads("nats", "NLL before", "rise of the NLL"),
            *heads("share", "no longer extracted", "goal reached too"),
        ],
        rows=rows,
    )


def _depth(figures: Figures, shares: Mapping[Goal, Sequence[Estimate]]) -> FigureTable:
    units = figures.silencing.units
    rows: list[list[Cell]] = [
        [
            str(block.number),
            int(units.widths[at]),
            float(units.shares[at]),
            *(column[at] for column in shares.values()),
        ]
        for at, block in enumerate(units.blocks)
    ]
    return FigureTable(
        name="unit-depth",
        title="Units by block",
        says="Share of a set in each block, averaged over windows, and the block's share of all "
        "units, which is the expectation for random units.",
        columns=[
            *heads("text", "block"),
            *heads("count", "units"),
            *heads("share", "share of all"),
            *heads("share", *(GOALS[goal] for goal in shares)),
        ],
        rows=rows,
    )


def _overlap(figures: Figures) -> list[FigureTable]:
    rows: list[list[Cell]] = []
    for outcome in figures.reported:
        common = overlap(figures, outcome)
        if common is not None:
            sets = len(outcome.members)
            rows.append([GOALS[outcome.goal], sets, common.shared, common.chance, common.commonest])
    if not rows:
        return []
    table = FigureTable(
        name="unit-overlap",
        title="Overlap of the sets of different windows",
        says="Share of the smaller of two sets that is also in the other, averaged over pairs of "
        "windows of different clusters, and its expectation for random units of the same blocks.",
        columns=[
            *heads("text", "goal"),
            *heads("count", "sets"),
            *heads("share", "shared", "by chance"),
            *heads("count", "sets with the commonest unit"),
        ],
        rows=rows,
    )
    return [table]


class _Curve(NamedTuple):
    """Share of windows for which the head of a ranking reaches a goal, by its length."""

    name: str
    goal: Goal
    ranking: Ranking | None
    shares: Sequence[Estimate]


def _reached(figures: Figures) -> list[_Curve]:
    curves = []
    for outcome in figures.silencing.outcomes:
        for ranking, (name, _) in _RANKINGS.items():
            wrong = figures.silencing.wrong[ranking or EFFECT_FOR[outcome.goal]]
            shares = [figures.share(wrong_tokens >= outcome.need) for wrong_tokens in wrong.T]
            label = f"{GOALS[outcome.goal]}, {name}"
            curves.append(_Curve(label, outcome.goal, ranking, shares))
    return curves


def _rankings(figures: Figures, curves: Sequence[_Curve]) -> FigureTable:
    rows: list[list[Cell]] = [
        [str(length), *(curve.shares[at] for curve in curves)]
        for at, length in enumerate(figures.silencing.lengths)
    ]
    return FigureTable(
        name="unit-rankings",
        title="Extractions stopped by the first units of a ranking",
        says=(
            "Share of the extracted windows that silencing this many units stops or erases: the "
            "first by effect on the suffix, the first by distance from their mean, and random "
            "units of all blocks."
        ),
        columns=[*heads("text", "units"), *heads("share", *(curve.name for curve in curves))],
        rows=rows,
    )


def _rankings_plot(figures: Figures, curves: Sequence[_Curve]) -> Plot:
    lengths = [float(length) for length in figures.silencing.lengths]
    lines = []
    for name, goal, ranking, shares in curves:
        colour, dash = _COLOURS[goal], _RANKINGS[ranking][1]
        if ranking == "random":
            colour, dash = "series-3", "--" if goal == "erased" else dash
        lines.append(Line.of(name, colour, lengths, shares, dash=dash, marker="o"))
    return Plot(
        name="unit-rankings",
        title="Extractions stopped against silenced units",
        says="Share of the searched windows; shaded: the interval. Erased: the share "
        "of the suffix set by erased is wrong, by default half.",
        x=Axis("units silenced", logarithmic=True),
        y=Axis("share of windows", low=0.0, high=1.0),
        lines=lines,
    )


def _depth_plot(figures: Figures, shares: Mapping[Goal, Sequence[Estimate]]) -> Plot:
    units = figures.silencing.units
    numbers = [float(block.number) for block in units.blocks]
    lines = [
        Line.of(GOALS[goal], _COLOURS[goal], numbers, own, marker="o")
        for goal, own in shares.items()
    ]
    expected = units.shares.tolist()
    chance = Line("share of all units", "series-3", numbers, expected, dash=":", marker="o")
    return Plot(
        name="unit-depth",
        title="Units that stop extractions, by block",
        says="Share of a set in each block, averaged over windows; shaded: the interval.",
        x=Axis("block", ticks=numbers if len(numbers) <= 12 else None),
        y=Axis("share of the set", low=0.0),
        lines=[*lines, chance],
    )
