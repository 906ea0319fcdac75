"""The figures of every ablation of a model, as tables and plots over its depth.

Knows figures and their form. Concludes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.anatomy.blocks import Block
from memaudit.diagnose.layers.ablation import Ablated, Ablation, Kind
from memaudit.diagnose.layers.costs import Costs
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.score.estimate import Estimate, Unit


class _Look(NamedTuple):
    name: str
    colour: str
    dash: str = "-"
    marker: str = "o"


_LOOKS: dict[Kind, _Look] = {
    "attention": _Look("attention to itself alone", "series-5"),
    "feed-forward": _Look("feed-forward taken away", "series-6", marker="s"),
}


@dataclass(frozen=True, eq=False)
class View:
    """What all tables and plots are made of."""

    blocks: Sequence[Block]
    found: Ablated
    costs: Costs
    skill: str
    """What skill is measured by: ``controls``, or ``not extracted``."""

    @property
    def depth(self) -> list[float]:
        """Numbers of the blocks."""
        return [float(block.number) for block in self.blocks]

    def at(self, kind: Kind, block: Block) -> int | None:
        """Place of an ablation among all."""
        places = (
            place
            for place, one in enumerate(self.found.ablations)
            if one.kind == kind and one.block is block
        )
        return next(places, None)

    def kept(self, place: int | None) -> Estimate | None:
        """Share of the extracted windows that still are."""
        if place is None or not len(self.found.extracted):
            return None
        return self.costs.kept[place]


def tables(view: View) -> list[FigureTable]:
    """All figures."""
    kept = [] if "extracted" in view.found.withheld else [_kept_table(view)]
    return [*kept, *(_nll_table(view, kind) for kind in _kinds(view)), _all(view)]


def plots(view: View) -> list[Plot]:
    """The same, drawn; without curves of which there is nothing."""
    drawn = [_kept_plot(view), *(_nll_plot(view, kind) for kind in _kinds(view)), _against(view)]
    return [one for one in map(_with_curves_only, drawn) if one.lines]


def _kinds(view: View) -> list[Kind]:
    """What could be taken away at all."""
    there = {one.kind for one in view.found.ablations}
    return [kind for kind in _LOOKS if kind in there]


def _with_curves_only(plot: Plot) -> Plot:
    return replace(plot, lines=[line for line in plot.lines if not np.isnan(line.y).all()])


def _kept_table(view: View) -> FigureTable:
    matched = view.costs.matched.estimates()
    rows: list[list[Cell]] = []
    for block in view.blocks:
        row: list[Cell] = [block.number]
        for kind in _LOOKS:
            place = view.at(kind, block)
            row += [view.kept(place), None if place is None else matched[place]]
        rows.append(row)
    heads: list[tuple[str, Unit]] = [("block", "count")]
    for words in ("attention to itself", "no feed-forward"):
        heads += [(f"{words}: still extracted", "share"), (f"{words}: tokens right", "points")]
    return FigureTable(
        name="blocks-kept",
        title="What is still extracted without a part of a block",
        says=f"Of {len(view.found.extracted)} windows that the intact model extracts from the "
        "plain prefix, the share that still comes out whole; and the change in the share of "
        "suffix tokens that are foretold right, each after the true ones before it.",
        columns=[Column(*head) for head in heads],
        rows=rows,
    )


def _kept_plot(view: View) -> Plot:
    lines = []
    for kind, look in _LOOKS.items():
        cells = [view.kept(view.at(kind, block)) for block in view.blocks]
        lines.append(_line(look, view.depth, cells))
    return Plot(
        name="blocks-kept",
        title="What is still extracted without a part of a block",
        says="Share of the extracted windows that still come out whole, by the block that a part "
        "was taken from. Where it is low the block is needed; whether by memory alone shows the "
        "cost to other text below.",
        x=_depth(view.blocks),
        y=Axis("share still extracted", low=0.0, high=1.02),
        lines=lines,
    )


def _nll_table(view: View, kind: Kind) -> FigureTable:
    costs = view.costs
    parts = {"extracted": costs.memory, "not extracted": costs.others}
    if _apart(view):
        parts |= {"controls": costs.skill, "difference": costs.selective}
    parts["extracted minus not extracted"] = costs.beyond_others
    columns = [one.estimates() for one in parts.values()]
    rows: list[list[Cell]] = [
        [block.number, *(column[at] for column in columns)]
        for block in view.blocks
        if (at := view.at(kind, block)) is not None
    ]
    difference = "of extracted windows minus that of controls, and " if _apart(view) else ""
    return FigureTable(
        name=f"nll-{kind}",
        title=_what(kind),
        says="Rise of the suffix NLL, nats/token, over that of the intact model, by group; last, "
        f"that {difference}of extracted windows minus that of windows that are not. "
        f"{_intact(view)}",
        columns=[Column("block", "count"), *(Column(head, "nats") for head in parts)],
        rows=rows,
    )


def _intact(view: View) -> str:
    """The NLL that all rises are over."""
    found = view.found
    groups = {"extracted": found.extracted, "not extracted": found.others}
    if _apart(view):
        groups["controls"] = found.controls
    said = [f"{one.nll[0].mean():.3f} ({name})" for name, one in groups.items() if len(one)]
    return f"That of the intact model is {', '.join(said)}."


def _nll_plot(view: View, kind: Kind) -> Plot:
    groups = [
        (_Look("extracted", "series-1"), view.costs.memory),
        (_Look("not extracted", "series-2"), view.costs.others),
    ]
    if _apart(view):
        groups.append((_Look("controls", "series-3", ":"), view.costs.skill))
    lines = []
    for look, replicates in groups:
        estimates = replicates.estimates()
        places = [view.at(kind, block) for block in view.blocks]
        cells = [None if place is None else estimates[place] for place in places]
        lines.append(_line(look, view.depth, cells))
    return Plot(
        name=f"nll-{kind}",
        title=_what(kind),
        says="How much worse the suffixes of each group are foretold without it. Where the lines "
        "part, the block serves one kind of text more than the other.",
        x=_depth(view.blocks),
        y=Axis("rise of suffix NLL (nats/token)"),
        lines=lines,
    )


def _all(view: View) -> FigureTable:
    costs = view.costs
    columns = (costs.skill, costs.lost, costs.memory, costs.excess, costs.excess_lost)
    estimates: list[list[Estimate | None]] = [[*one.estimates()] for one in columns]
    estimates[1] = [_rest(view.kept(place)) for place in range(len(view.found.ablations))]
    rows: list[list[Cell]] = [
        [_name(one), *(column[place] for column in estimates)]
        for place, one in enumerate(view.found.ablations)
        if one.kind != "intact"
    ]
    units: tuple[tuple[str, Unit], ...] = (
        (f"{view.skill}: rise of NLL", "nats"),
        ("extracted: lost", "share"),
        ("extracted: rise of NLL", "nats"),
        ("rise beyond noise", "nats"),
        ("lost beyond noise", "points"),
    )
    return FigureTable(
        name="memory-skill",
        title="Memory lost against skill lost",
        says="Each part, and noise of several strengths in every block as the control: what it "
        "costs extracted windows beyond what noise costs them that harms "
        f"{view.skill} as much. Empty for noise itself, where no noise harms them as much, and "
        "where both lose all.",
        columns=[Column("without", "text"), *(Column(*one) for one in units)],
        rows=rows,
    )


def _rest(kept: Estimate | None) -> Estimate | None:
    """What is lost where so much is kept: with bounds also where all windows fare alike."""
    if kept is None or kept.value is None or kept.low is None or kept.high is None:
        return None
    return Estimate(1 - kept.value, 1 - kept.high, 1 - kept.low)


def _against(view: View) -> Plot:
    lines = []
    skill, memory = view.costs.skill.values, view.costs.memory.estimates()
    looks: dict[Kind, _Look] = {"noise": _Look("noise in every block (control)", "series-3", ":")}
    looks |= {kind: look._replace(dash="") for kind, look in _LOOKS.items()}
    for kind, look in looks.items():
        places = [at for at, one in enumerate(view.found.ablations) if one.kind == kind]
        places.sort(key=lambda at: float(skill[at]))
        shown = [at for at in places if skill[at] > 0]
        cells = [_positive(memory[at]) for at in shown]
        lines.append(_line(look, [float(skill[at]) for at in shown], cells))
    return Plot(
        name="memory-skill",
        title="Memory lost against skill lost",
        says="Every point is one block without one part. Above the dotted line a part costs "
        "extracted windows more than noise of the same cost in skill does, below it less.",
        x=Axis(f"rise of NLL of {view.skill} (nats/token)", logarithmic=True),
        y=Axis("rise of NLL of extracted (nats/token)", logarithmic=True),
        lines=lines,
    )


def _apart(view: View) -> bool:
    """Whether skill is measured by windows of their own."""
    return bool(len(view.found.controls))


def _what(kind: Kind) -> str:
    if kind == "attention":
        return "What attention to itself alone costs each kind of text"
    return "What taking the feed-forward part away costs each kind of text"


def _name(one: Ablation) -> str:
    if one.block is None:
        return f"noise {one.strength:g}"
    return f"block {one.block.number}: {one.kind}"


def _depth(blocks: Sequence[Block]) -> Axis:
    step = -(-len(blocks) // 16)
    return Axis("block", ticks=[float(block.number) for block in blocks[::step]])


def _line(look: _Look, where: Sequence[float], cells: Sequence[Estimate | None]) -> Line:
    return Line.of(look.name, look.colour, where, cells, dash=look.dash, marker=look.marker)


def _positive(cell: Estimate) -> Estimate:
    """What a logarithmic axis has a place for."""
    ends = (cell.value, cell.low, cell.high)
    return Estimate(*(None if one is None or one <= 0 else one for one in ends))
