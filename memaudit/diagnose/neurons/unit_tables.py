"""Tables and plots of the silenced units. Knows no model."""

from __future__ import annotations

import numpy as np

from memaudit.diagnose.neurons.silencing import EFFECT_FOR, Kind, Outcome, Ranking
from memaudit.diagnose.neurons.unit_report import GOALS, GROUPS, Figures, overlap
from memaudit.diagnose.section import heads
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, FigureTable, Plot
from memaudit.score.estimate import Estimate

_RANKINGS: dict[Ranking | None, tuple[str, str]] = {
    None: ("by effect", "-"),
    "size": ("by activation", "--"),
    "random": ("random", ":"),
}
"""Names and dashes; None is the ranking for the goal."""
_COLOURS = {"stopped": "series-1", "erased": "series-4"}
_KINDS: dict[Kind, str] = {"found": "found", "random": "random, same blocks"}


def silencing_tables(figures: Figures) -> list[FigureTable]:
    """Return all tables."""
    reported = figures.reported
    tables = [_sets(figures), _rankings(figures)]
    if reported:
        tables += [
            _controls(figures, reported),
            _cost(figures, reported),
            _depth(figures, reported),
        ]
    if any(overlap(figures, outcome) for outcome in reported):
        tables.append(_overlap(figures, reported))
    return tables


def _sets(figures: Figures) -> FigureTable:
    rows: list[list[Cell]] = []
    total = int(figures.silencing.units.widths.sum())
    for outcome in figures.silencing.outcomes:
        sizes = [len(outcome.sets[at].units) for at in outcome.with_set if outcome.disclosed]
        has_set = np.array([unit_set.stopped for unit_set in outcome.sets])
        median = figures.sizes(outcome)
        quarters = (
            np.quantile(sizes, [0.25, 0.75], method="inverted_cdf") if sizes else (None, None)
        )
        rows.append(
            [
                GOALS[outcome.goal],
                outcome.need,
                len(outcome.sets),
                figures.share(has_set),
                median,
                *(None if size is None else int(size) for size in quarters),
                None if median.value is None else median.value / total,
                sum(outcome.sets[at].minimal for at in outcome.with_set),
            ]
        )
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


def _controls(figures: Figures, reported: list[Outcome]) -> FigureTable:
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
            for outcome in reported
        ],
    )


def _cost(figures: Figures, reported: list[Outcome]) -> FigureTable:
    rows: list[list[Cell]] = []
    for outcome in reported:
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


def _depth(figures: Figures, reported: list[Outcome]) -> FigureTable:
    units = figures.silencing.units
    columns = [figures.by_block(outcome) for outcome in reported]
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
        title="Units by block",
        says="Share of a set in each block, averaged over windows, and the block's share of all "
        "units, which is the expectation for random units.",
        columns=[
            *heads("text", "block"),
            *heads("count", "units"),
            *heads("share", "share of all"),
            *heads("share", *(GOALS[outcome.goal] for outcome in reported)),
        ],
        rows=rows,
    )


def _overlap(figures: Figures, reported: list[Outcome]) -> FigureTable:
    rows: list[list[Cell]] = []
    for outcome in reported:
        common = overlap(figures, outcome)
        if common is not None:
            sets = len(outcome.with_set)
            rows.append([GOALS[outcome.goal], sets, common.shared, common.chance, common.commonest])
    return FigureTable(
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


def _reached(figures: Figures, outcome: Outcome, ranking: Ranking | None) -> list[Estimate]:
    """Return the share of windows (lengths) for which a ranking's head reaches the goal."""
    wrong = figures.silencing.wrong[ranking or EFFECT_FOR[outcome.goal]]
    return [figures.share(wrong_tokens >= outcome.need) for wrong_tokens in wrong.T]


def _rankings(figures: Figures) -> FigureTable:
    curves = [
        (f"{GOALS[outcome.goal]}, {name}", _reached(figures, outcome, ranking))
        for outcome in figures.silencing.outcomes
        for ranking, (name, _) in _RANKINGS.items()
    ]
    rows: list[list[Cell]] = [
        [str(length), *(column[at] for _, column in curves)]
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
        columns=[*heads("text", "units"), *heads("share", *(name for name, _ in curves))],
        rows=rows,
    )


def silencing_plots(figures: Figures) -> list[Plot]:
    """Return plots of the units needed and of their blocks."""
    reported = figures.reported
    plots = [_rankings_plot(figures)]
    if reported and len(figures.silencing.units.blocks) > 1:
        plots.append(_depth_plot(figures, reported))
    return plots


def _rankings_plot(figures: Figures) -> Plot:
    lengths = [float(length) for length in figures.silencing.lengths]
    lines = []
    for outcome in figures.silencing.outcomes:
        for ranking, (name, dash) in _RANKINGS.items():
            label = f"{GOALS[outcome.goal]}, {name}"
            colour = "series-3" if ranking == "random" else _COLOURS[outcome.goal]
            dash = "--" if ranking == "random" and outcome.goal == "erased" else dash
            shares = _reached(figures, outcome, ranking)
            lines.append(_line(label, colour, lengths, shares, dash))
    return Plot(
        name="unit-rankings",
        title="Extractions stopped against silenced units",
        says="Share of the searched windows; shaded: the interval. Erased: the share "
        "of the suffix set by erased is wrong, by default half.",
        x=Axis("units silenced", logarithmic=True),
        y=Axis("share of windows", low=0.0, high=1.0),
        lines=lines,
    )


def _depth_plot(figures: Figures, reported: list[Outcome]) -> Plot:
    units = figures.silencing.units
    numbers = [float(block.number) for block in units.blocks]
    lines = [
        _line(GOALS[outcome.goal], _COLOURS[outcome.goal], numbers, figures.by_block(outcome), "-")
        for outcome in reported
    ]
    shares = [float(share) for share in units.widths / units.widths.sum()]
    chance = Line("share of all units", "series-3", numbers, shares, dash=":", marker="o")
    return Plot(
        name="unit-depth",
        title="Units that stop extractions, by block",
        says="Share of a set in each block, averaged over windows; shaded: the interval.",
        x=Axis("block", ticks=numbers if len(numbers) <= 12 else None),
        y=Axis("share of the set", low=0.0),
        lines=[*lines, chance],
    )


def _line(name: str, colour: str, x: list[float], estimates: list[Estimate], dash: str) -> Line:
    return Line.of(name, colour, x, estimates, dash=dash, marker="o")
