"""The sets of units as tables and plots.

Knows their figures and the form of a diagnosis. Knows no model.
"""

from __future__ import annotations

import numpy as np

from memaudit.diagnose.neurons.silencing_found import EFFECT_FOR, Kind, Outcome, Ranking
from memaudit.diagnose.neurons.silencing_report import GOALS, GROUPS, Figures, overlap
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.score.estimate import Estimate

_RANKINGS: dict[Ranking | None, tuple[str, str]] = {
    None: ("by effect", "-"),
    "size": ("by activation", "--"),
    "random": ("random", ":"),
}
"""None stands for the ranking that is made for the goal."""
_COLOURS = {"stopped": "series-1", "erased": "series-4"}
_KINDS: dict[Kind, str] = {"found": "found", "random": "random, same blocks"}


def silencing_tables(figures: Figures) -> list[FigureTable]:
    """All of them."""
    able = [
        outcome
        for outcome in figures.silencing.outcomes
        if len(outcome.found) and outcome.disclosed
    ]
    tables = [_sets(figures), _rankings(figures)]
    if able:
        tables += [_controls(figures, able), _cost(figures, able), _depth(figures, able)]
    if any(overlap(figures, outcome) for outcome in able):
        tables.append(_overlap(figures, able))
    return tables


def _sets(figures: Figures) -> FigureTable:
    rows: list[list[Cell]] = []
    total = int(figures.silencing.units.widths.sum())
    for outcome in figures.silencing.outcomes:
        sizes = [len(outcome.sets[at].units) for at in outcome.found if outcome.disclosed]
        found = np.array([one.stopped for one in outcome.sets])
        middle = figures.sizes(outcome)
        quarters = (
            np.quantile(sizes, [0.25, 0.75], method="inverted_cdf") if sizes else (None, None)
        )
        rows.append(
            [
                GOALS[outcome.goal],
                outcome.need,
                len(outcome.sets),
                figures.share(found),
                middle,
                *(None if one is None else int(one) for one in quarters),
                None if middle.value is None else middle.value / total,
                sum(outcome.sets[at].minimal for at in outcome.found),
            ]
        )
    return FigureTable(
        name="unit-sets",
        title="Units whose silencing stops an extraction",
        says=(
            "The shortest head of the ranking by effect that makes so many suffix tokens wrong, "
            "less the units that it does not need. Windows without a set count as more than any in "
            "the median; the quartiles are of those with one. Minimal: it was tried that no single "
            "unit can be left out."
        ),
        columns=[
            Column("goal", "text"),
            Column("tokens wrong", "count"),
            Column("windows", "count"),
            Column("set found", "share"),
            Column("median units", "number"),
            Column("first quartile", "count"),
            Column("third quartile", "count"),
            Column("of all units", "share"),
            Column("minimal sets", "count"),
        ],
        rows=rows,
    )


def _controls(figures: Figures, able: list[Outcome]) -> FigureTable:
    return FigureTable(
        name="unit-controls",
        title="Whether other units would have done it",
        says=(
            "Share of the windows with a set for which as many other units reach the same goal: "
            "drawn at random from the same blocks, and those that are furthest from their mean."
        ),
        columns=[
            Column("goal", "text"),
            Column("windows", "count"),
            Column("random units", "share"),
            Column("largest activations", "share"),
        ],
        rows=[
            [
                GOALS[outcome.goal],
                len(outcome.found),
                figures.mean_share(outcome.random),
                figures.share(outcome.largest),
            ]
            for outcome in able
        ],
    )


def _cost(figures: Figures, able: list[Outcome]) -> FigureTable:
    rows: list[list[Cell]] = []
    for outcome in able:
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
        title="What silencing the units of one window does to others",
        says=(
            "Each set is silenced while other windows pass, of other clusters than its own: the "
            "rise of their suffix NLL, and how many extracted ones no longer come out, or are "
            "erased as well."
        ),
        columns=[
            Column("units", "text"),
            Column("measured on", "text"),
            Column("windows", "count"),
            Column("NLL before", "nats"),
            Column("rise of the NLL", "nats"),
            Column("no longer extracted", "share"),
            Column("goal reached too", "share"),
        ],
        rows=rows,
    )


def _depth(figures: Figures, able: list[Outcome]) -> FigureTable:
    units = figures.silencing.units
    columns = [figures.by_block(outcome) for outcome in able]
    rows: list[list[Cell]] = [
        [
            str(block.number),
            int(width),
            float(width / units.widths.sum()),
            *(column[at] for column in columns),
        ]
        for at, (block, width) in enumerate(zip(units.blocks, units.widths, strict=True))
    ]
    return FigureTable(
        name="unit-depth",
        title="Where the units sit",
        says="Share of a set that is in each block, on average over windows, beside the block's "
        "share of all units, which random ones would have.",
        columns=[
            Column("block", "text"),
            Column("units", "count"),
            Column("share of all", "share"),
            *(Column(GOALS[outcome.goal], "share") for outcome in able),
        ],
        rows=rows,
    )


def _overlap(figures: Figures, able: list[Outcome]) -> FigureTable:
    rows: list[list[Cell]] = []
    for outcome in able:
        found = overlap(figures, outcome)
        if found is not None:
            sets = len(outcome.found)
            rows.append([GOALS[outcome.goal], sets, found.shared, found.chance, found.most])
    return FigureTable(
        name="unit-overlap",
        title="How much the sets of different windows share",
        says="Share of the smaller set of two that is in the other too, on average over pairs of "
        "windows of different clusters, and what it would be for random units of the same blocks.",
        columns=[
            Column("goal", "text"),
            Column("sets", "count"),
            Column("shared", "share"),
            Column("by chance", "share"),
            Column("sets with the commonest unit", "count"),
        ],
        rows=rows,
    )


def _reached(figures: Figures, outcome: Outcome, ranking: Ranking | None) -> list[Estimate]:
    """(lengths) share of windows for which the head of a ranking reaches a goal."""
    wrong = figures.silencing.wrong[ranking or EFFECT_FOR[outcome.goal]]
    return [figures.share(some >= outcome.need) for some in wrong.T]


def _rankings(figures: Figures) -> FigureTable:
    shown = [
        (f"{GOALS[outcome.goal]}, {name}", _reached(figures, outcome, ranking))
        for outcome in figures.silencing.outcomes
        for ranking, (name, _) in _RANKINGS.items()
    ]
    rows: list[list[Cell]] = [
        [str(length), *(column[at] for _, column in shown)]
        for at, length in enumerate(figures.silencing.lengths)
    ]
    return FigureTable(
        name="unit-rankings",
        title="Extractions stopped by the first units of a ranking",
        says=(
            "Share of the extracted windows that silencing so many units stops or erases: the "
            "first by effect on this suffix, the first by how far they are from their mean on it, "
            "and as many of all units by lot."
        ),
        columns=[Column("units", "text"), *(Column(name, "share") for name, _ in shown)],
        rows=rows,
    )


def silencing_plots(figures: Figures) -> list[Plot]:
    """How many units it takes, and where those that were found sit."""
    able = [
        outcome
        for outcome in figures.silencing.outcomes
        if len(outcome.found) and outcome.disclosed
    ]
    plots = [_rankings_plot(figures)]
    if able and len(figures.silencing.units.blocks) > 1:
        plots.append(_depth_plot(figures, able))
    return plots


def _rankings_plot(figures: Figures) -> Plot:
    lengths = [float(length) for length in figures.silencing.lengths]
    lines = []
    for outcome in figures.silencing.outcomes:
        for ranking, (name, dash) in _RANKINGS.items():
            shown = f"{GOALS[outcome.goal]}, {name}"
            colour = "series-3" if ranking == "random" else _COLOURS[outcome.goal]
            dash = "--" if ranking == "random" and outcome.goal == "erased" else dash
            found = _reached(figures, outcome, ranking)
            lines.append(_line(shown, colour, lengths, found, dash))
    return Plot(
        name="unit-rankings",
        title="Extractions stopped by silencing so many units",
        says="Of the extracted windows looked at; shaded: the interval. Erased: half of the suffix "
        "or what was set comes out wrong.",
        x=Axis("units silenced", logarithmic=True),
        y=Axis("share of windows", low=0.0, high=1.0),
        lines=lines,
    )


def _depth_plot(figures: Figures, able: list[Outcome]) -> Plot:
    units = figures.silencing.units
    numbers = [float(block.number) for block in units.blocks]
    lines = [
        _line(GOALS[outcome.goal], _COLOURS[outcome.goal], numbers, figures.by_block(outcome), "-")
        for outcome in able
    ]
    shares = [float(share) for share in units.widths / units.widths.sum()]
    chance = Line("share of all units", "series-3", numbers, shares, dash=":", marker="o")
    return Plot(
        name="unit-depth",
        title="Where the units that stop extractions sit",
        says="Share of a set in each block, on average over windows; shaded: the interval.",
        x=Axis("block", ticks=numbers if len(numbers) <= 12 else None),
        y=Axis("share of the set", low=0.0),
        lines=[*lines, chance],
    )


def _line(name: str, colour: str, x: list[float], found: list[Estimate], dash: str) -> Line:
    return Line.of(name, colour, x, found, dash=dash, marker="o")
