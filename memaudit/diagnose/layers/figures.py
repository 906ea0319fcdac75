"""Tables and plots of the ablations over a model's depth. States no findings."""

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


class _Style(NamedTuple):
    name: str
    colour: str
    dash: str = "-"
    marker: str = "o"


_STYLES: dict[Kind, _Style] = {
    "attention": _Style("attention to itself only", "series-5"),
    "feed-forward": _Style("feed-forward removed", "series-6", marker="s"),
}


@dataclass(frozen=True, eq=False)
class View:
    """Contents of all tables and plots."""

    blocks: Sequence[Block]
    ablated: Ablated
    costs: Costs
    skill: str
    """Windows that measure skill: ``controls`` or ``not extracted``."""

    @property
    def depth(self) -> list[float]:
        """Block numbers."""
        return [float(block.number) for block in self.blocks]

    def at(self, kind: Kind, block: Block) -> int | None:
        """Return the position of an ablation among all; None if there is none."""
        places = (
            place
            for place, ablation in enumerate(self.ablated.ablations)
            if ablation.kind == kind and ablation.block is block
        )
        return next(places, None)

    def still_extracted(self, place: int | None) -> Estimate | None:
        """Return the share of the extracted windows that are still extracted."""
        if place is None or not len(self.ablated.extracted):
            return None
        return self.costs.still_extracted[place]


def tables(view: View) -> list[FigureTable]:
    """Return all tables."""
    extracted = [] if "extracted" in view.ablated.withheld else [_extracted_table(view)]
    return [*extracted, *(_nll_table(view, kind) for kind in _kinds(view)), _skill_table(view)]


def plots(view: View) -> list[Plot]:
    """Return all plots, without empty curves."""
    all_plots = [
        _extracted_plot(view),
        *(_nll_plot(view, kind) for kind in _kinds(view)),
        _skill_plot(view),
    ]
    return [plot for plot in map(_with_curves_only, all_plots) if plot.lines]


def _kinds(view: View) -> list[Kind]:
    """Return the kinds of parts that were removed."""
    present = {ablation.kind for ablation in view.ablated.ablations}
    return [kind for kind in _STYLES if kind in present]


def _with_curves_only(plot: Plot) -> Plot:
    return replace(plot, lines=[line for line in plot.lines if not np.isnan(line.y).all()])


def _extracted_table(view: View) -> FigureTable:
    matched = view.costs.matched.estimates()
    rows: list[list[Cell]] = []
    for block in view.blocks:
        row: list[Cell] = [block.number]
        for kind in _STYLES:
            place = view.at(kind, block)
            row += [view.still_extracted(place), None if place is None else matched[place]]
        rows.append(row)
    heads: list[tuple[str, Unit]] = [("block", "count")]
    for words in ("attention to itself", "no feed-forward"):
        heads += [(f"{words}: still extracted", "share"), (f"{words}: tokens right", "points")]
    return FigureTable(
        name="blocks-kept",
        title="Windows still extracted without a part of a block",
        says=f"Share of the {len(view.ablated.extracted)} windows that the intact model extracts "
        "from the plain prefix that are still extracted; and the change in the share of suffix "
        "tokens predicted correctly, each after the true ones.",
        columns=[Column(*head) for head in heads],
        rows=rows,
    )


def _extracted_plot(view: View) -> Plot:
    lines = []
    for kind, style in _STYLES.items():
        cells = [view.still_extracted(view.at(kind, block)) for block in view.blocks]
        lines.append(_line(style, view.depth, cells))
    return Plot(
        name="blocks-kept",
        title="Windows still extracted without a part of a block",
        says="Share of the extracted windows that are still extracted, by the block that lacks a "
        "part. If it is low, extraction needs the block; the cost to other text shows if only "
        "memory needs it.",
        x=_depth(view.blocks),
        y=Axis("share still extracted", low=0.0, high=1.02),
        lines=lines,
    )


def _nll_table(view: View, kind: Kind) -> FigureTable:
    costs = view.costs
    parts = {"extracted": costs.memory, "not extracted": costs.not_extracted}
    if _has_controls(view):
        parts |= {"controls": costs.skill, "difference": costs.selective}
    parts["extracted minus not extracted"] = costs.beyond_not_extracted
    columns = [replicates.estimates() for replicates in parts.values()]
    rows: list[list[Cell]] = [
        [block.number, *(column[at] for column in columns)]
        for block in view.blocks
        if (at := view.at(kind, block)) is not None
    ]
    difference = "of extracted windows minus controls, and " if _has_controls(view) else ""
    return FigureTable(
        name=f"nll-{kind}",
        title=_title(kind),
        says="Rise of the suffix NLL, nats/token, over that of the intact model, by group. Last: "
        f"the rise {difference}of extracted windows minus windows that are not extracted. "
        f"{_intact(view)}",
        columns=[Column("block", "count"), *(Column(head, "nats") for head in parts)],
        rows=rows,
    )


def _intact(view: View) -> str:
    """Return a sentence on the intact model's NLL by group."""
    ablated = view.ablated
    groups = {"extracted": ablated.extracted, "not extracted": ablated.not_extracted}
    if _has_controls(view):
        groups["controls"] = ablated.controls
    means = [f"{group.nll[0].mean():.3f} ({name})" for name, group in groups.items() if len(group)]
    return f"The intact model's NLL is {', '.join(means)}."


def _nll_plot(view: View, kind: Kind) -> Plot:
    groups = [
        (_Style("extracted", "series-1"), view.costs.memory),
        (_Style("not extracted", "series-2"), view.costs.not_extracted),
    ]
    if _has_controls(view):
        groups.append((_Style("controls", "series-3", ":"), view.costs.skill))
    lines = []
    for style, replicates in groups:
        estimates = replicates.estimates()
        places = [view.at(kind, block) for block in view.blocks]
        cells = [None if place is None else estimates[place] for place in places]
        lines.append(_line(style, view.depth, cells))
    return Plot(
        name=f"nll-{kind}",
        title=_title(kind),
        says="Rise of the NLL of each group's suffixes without the part. If the lines diverge, the "
        "block serves one kind of text more than another.",
        x=_depth(view.blocks),
        y=Axis("rise of suffix NLL (nats/token)"),
        lines=lines,
    )


def _skill_table(view: View) -> FigureTable:
    costs = view.costs
    columns = (costs.skill, costs.lost, costs.memory, costs.excess, costs.excess_lost)
    estimates: list[list[Estimate | None]] = [[*entry.estimates()] for entry in columns]
    estimates[1] = [
        _lost(view.still_extracted(place)) for place in range(len(view.ablated.ablations))
    ]
    rows: list[list[Cell]] = [
        [_name(entry), *(column[place] for column in estimates)]
        for place, entry in enumerate(view.ablated.ablations)
        if entry.kind != "intact"
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
        says="Each part, and noise of several strengths in every block as a control: the cost to "
        "extracted windows beyond that of noise that harms "
        f"{view.skill} as much. Empty for noise, if no noise harms them as much, and if both lose "
        "all.",
        columns=[Column("without", "text"), *(Column(*entry) for entry in units)],
        rows=rows,
    )


def _lost(share: Estimate | None) -> Estimate | None:
    """Return the share lost, 1 minus the share still extracted; None without bounds."""
    if share is None or share.value is None or share.low is None or share.high is None:
        return None
    return Estimate(1 - share.value, 1 - share.high, 1 - share.low)


def _skill_plot(view: View) -> Plot:
    lines = []
    skill, memory = view.costs.skill.values, view.costs.memory.estimates()
    styles: dict[Kind, _Style] = {
        "noise": _Style("noise in every block (control)", "series-3", ":")
    }
    styles |= {kind: style._replace(dash="") for kind, style in _STYLES.items()}
    for kind, style in styles.items():
        places = [at for at, ablation in enumerate(view.ablated.ablations) if ablation.kind == kind]
        places.sort(key=lambda at: float(skill[at]))
        positive = [at for at in places if skill[at] > 0]
        cells = [_positive(memory[at]) for at in positive]
        lines.append(_line(style, [float(skill[at]) for at in positive], cells))
    return Plot(
        name="memory-skill",
        title="Memory lost against skill lost",
        says="Every point is one block without one part. Above the dotted line, a part costs "
        "extracted windows more than noise with the same cost in skill; below it, less.",
        x=Axis(f"rise of NLL of {view.skill} (nats/token)", logarithmic=True),
        y=Axis("rise of NLL of extracted (nats/token)", logarithmic=True),
        lines=lines,
    )


def _has_controls(view: View) -> bool:
    """Return True if controls measure skill."""
    return bool(len(view.ablated.controls))


def _title(kind: Kind) -> str:
    if kind == "attention":
        return "Cost of attention to itself only, by kind of text"
    return "Cost of removing the feed-forward part, by kind of text"


def _name(ablation: Ablation) -> str:
    if ablation.block is None:
        return f"noise {ablation.strength:g}"
    return f"block {ablation.block.number}: {ablation.kind}"


def _depth(blocks: Sequence[Block]) -> Axis:
    step = -(-len(blocks) // 16)
    return Axis("block", ticks=[float(block.number) for block in blocks[::step]])


def _line(style: _Style, x: Sequence[float], cells: Sequence[Estimate | None]) -> Line:
    return Line.of(style.name, style.colour, x, cells, dash=style.dash, marker=style.marker)


def _positive(cell: Estimate) -> Estimate:
    """Return the estimate with None for values that a logarithmic axis cannot plot."""
    ends = (cell.value, cell.low, cell.high)
    return Estimate(*(None if end is None or end <= 0 else end for end in ends))
