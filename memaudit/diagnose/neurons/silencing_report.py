"""Findings, tables and plots of the silenced units. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from memaudit.diagnose.neurons.silencing import (
    EFFECT_FOR,
    Figures,
    Goal,
    Group,
    Kind,
    Outcome,
    Ranking,
    Silencing,
    overlap,
)
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.score.estimate import Estimate

GOALS: dict[Goal, str] = {"stopped": "one token wrong", "erased": "erased"}
UNSELECTIVE = 0.5
"""Share of other extracted windows lost above which a set is not selective."""
GROUPS: dict[Group, str] = {
    "extracted": "other extracted windows",
    "controls": "controls",
    "data": "data that no attack extracts",
}
_RANKINGS: dict[Ranking | None, tuple[str, str]] = {
    None: ("by effect", "-"),
    "size": ("by activation", "--"),
    "random": ("random", ":"),
}
"""Names and dashes; None is the ranking for the goal."""
_COLOURS = {"stopped": "series-1", "erased": "series-4"}
_KINDS: dict[Kind, str] = {"found": "found", "random": "random, same blocks"}


def silencing_findings(figures: Figures) -> list[str]:
    """Return the findings, the most important first."""
    return [
        sentence
        for outcome in figures.silencing.outcomes
        for sentence in (
            (*_size(figures, outcome), *_elsewhere(figures, outcome), *_place(figures, outcome))
            if outcome.disclosed
            else (_too_few(figures, outcome),)
        )
    ]


def _goal(figures: Figures, outcome: Outcome) -> str:
    if outcome.goal == "stopped":
        return "stop an extraction (one suffix token wrong)"
    return f"erase a suffix ({outcome.need} of its tokens wrong)"


def _too_few(figures: Figures, outcome: Outcome) -> str:
    return (
        f"To {_goal(figures, outcome)}, a set of units was found for {len(outcome.with_set)} of "
        f"{len(outcome.sets)} windows, too few to report."
    )


def _size(figures: Figures, outcome: Outcome) -> Iterator[str]:
    windows, with_set = len(outcome.sets), len(outcome.with_set)
    goal, total = _goal(figures, outcome), int(figures.silencing.units.widths.sum())
    limit = figures.silencing.limit
    if not with_set:
        yield (
            f"To {goal}, no set of up to {limit:,} of {total:,} feed-forward units was found for "
            f"any of {windows} windows."
        )
        return
    sizes = figures.sizes(outcome)
    middle = f"a median of {sizes:.0f}"
    if sizes.value is None:
        middle = f"in the median more than {limit:,}" if with_set < windows else "some"
    elif sizes.low is not None and sizes.high is None:
        middle = f"a median of {sizes.value:.0f} ({sizes.low:.0f} to more than {limit:,})"
    middle += f" of {total:,} feed-forward units"
    yield (
        f"To {goal}, silencing {middle} is enough; a set was found for {with_set} of {windows} "
        f"windows. As many random units of the same blocks, a weak control, do it for "
        f"{figures.mean_share(outcome.random):share} of these windows, and as many units furthest "
        f"from their mean for {figures.share(outcome.largest):share}."
    )


def _elsewhere(figures: Figures, outcome: Outcome) -> Iterator[str]:
    parts = []
    for group in ("controls", "data"):
        rise, random = (figures.rise(outcome, group, kind) for kind in ("found", "random"))
        if rise is not None and random is not None:
            parts.append(
                f"the NLL of {GROUPS[group]} rises by {rise:.3f} nats/token (random units: "
                f"{random:.3f})"
            )
    lost, by_chance = (figures.lost(outcome, kind) for kind in ("found", "random"))
    if lost is not None and by_chance is not None:
        parts.append(
            f"{lost:share} of other extracted windows are no longer extracted (random units: "
            f"{by_chance:share})"
        )
    if parts:
        yield f"The cost of such a set elsewhere: {'; '.join(parts)}."
    if lost is not None and lost.value is not None and lost.value > UNSELECTIVE:
        yield (
            f"This is not selective: a set chosen to {_goal(figures, outcome)} also stops most "
            "other extractions. Units chosen by gradient may break any confident continuation, so "
            "a lower rate of random units does not show that a set holds the memory."
        )


def _place(figures: Figures, outcome: Outcome) -> Iterator[str]:
    """Yield a finding on the blocks of a set's units and the overlap of sets."""
    common = overlap(figures, outcome)
    if common is None:
        return
    shares, units = figures.by_block(outcome), figures.silencing.units
    at = int(np.argmax([share.value or 0.0 for share in shares]))
    where = ""
    if len(shares) > 1:
        where = (
            f"{shares[at]:share} of its units are in block {units.blocks[at].number}, "
            f"which has {100 * units.widths[at] / units.widths.sum():.1f} % of all units; "
        )
    yield (
        f"Such a set: {where}on average {common.shared:share} of the smaller of two sets are also "
        f"in the other, {common.chance:share} by chance."
    )


def silencing_notes(figures: Figures) -> list[str]:
    """Return the notes on the sets."""
    silencing = figures.silencing
    notes = [
        "A set is an upper bound of the smallest set: units are ranked by their first-order "
        "effect, and only sets along this ranking are tried. Only for sets called minimal did "
        "trials show that every unit is needed.",
        "One wrong token ends an exact extraction, while the model may still produce the rest of "
        "the suffix: a few units that do this break a link and do not hold the memory. The units "
        "that it takes to erase a suffix are the better measure.",
        f"A silenced unit has the value {_level(silencing)} at every position of the window.",
    ]
    unsure = [
        f"{sum(not outcome.sets[at].minimal for at in outcome.with_set)} of the "
        f"{len(outcome.with_set)} sets for {GOALS[outcome.goal]!r}"
        for outcome in silencing.outcomes
        if any(not outcome.sets[at].minimal for at in outcome.with_set)
    ]
    if unsure:
        which = " and ".join(unsure)
        notes.append(f"Trials ran out (--set trials) before minimality was known for {which}.")
    if silencing.not_reproduced:
        notes.append(
            f"{silencing.not_reproduced} windows that the run extracted could not be reproduced "
            "and were left out."
        )
    if len(silencing.clusters) == 1:
        notes.append("Only a single window was searched, so there are no intervals over windows.")
    return notes


def _level(silencing: Silencing) -> str:
    if silencing.level_source == "nothing":
        return "0"
    return f"of its mean over the suffixes of {silencing.level_source}"


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


def _controls(figures: Figures, reported: list[Outcome]) -> FigureTable:
    return FigureTable(
        name="unit-controls",
        title="Other sets of the same size",
        says=(
            "Share of the windows with a set for which as many other units reach the same goal: "
            "random units of the same blocks, and the units furthest from their mean."
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
            Column("block", "text"),
            Column("units", "count"),
            Column("share of all", "share"),
            *(Column(GOALS[outcome.goal], "share") for outcome in reported),
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
            Column("goal", "text"),
            Column("sets", "count"),
            Column("shared", "share"),
            Column("by chance", "share"),
            Column("sets with the commonest unit", "count"),
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
        columns=[Column("units", "text"), *(Column(name, "share") for name, _ in curves)],
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
