"""Report on the ablations over a model's depth: tables and plots; `findings` has the sentences.

Knows scores and their costs. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.layers.costs import Costs, cost
from memaudit.diagnose.layers.findings import conclude, remark
from memaudit.diagnose.layers.measure import NOISE, Ablation, Kind, Measurements
from memaudit.diagnose.layers.settings import LayersSettings
from memaudit.diagnose.section import COLOURS, Section, block_axis, heads
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Diagnosis, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples

ABOUT = (
    "Which blocks carry memory, and which carry the skill that all text needs? In one block at a "
    "time, each position attends only to itself (Menta et al. 2025), or the feed-forward part is "
    "removed. The cost to extracted windows is compared with the cost to controls."
)


class _Style(NamedTuple):
    """Name and look of a line."""

    name: str
    colour: str
    dash: str = "-"
    marker: str = "o"


_STYLES: dict[Kind, _Style] = {
    "attention": _Style("attention to itself only", "series-5"),
    "feed-forward": _Style("feed-forward removed", "series-6", marker="s"),
}


def report(
    measured: Measurements, settings: LayersSettings, resamples: Resamples, disclosure: Disclosure
) -> Diagnosis:
    """Compare what each part costs extracted windows with what it costs other text."""
    rng = np.random.default_rng([settings.seed, 1])
    costs = cost(measured, replace(resamples, seed=rng))
    view = _View(measured, costs, "controls" if len(measured.controls) else "not extracted")
    withheld = "extracted" in measured.withheld
    plots = [_extracted_plot(view), *(_nll_plot(view, kind) for kind in view.kinds)]
    return Section(
        conclude(measured, costs, view.skill),
        remark(measured, resamples.confidence),
        [
            *([] if withheld else [_extracted_table(view)]),
            *(_nll_table(view, kind) for kind in view.kinds),
            _skill_table(view),
        ],
        [plot for plot in map(_with_curves_only, [*plots, _skill_plot(view)]) if plot.lines],
    ).diagnosis(
        "layers",
        ABOUT,
        {
            "windows": settings.windows,
            "seed": settings.seed,
            "noise": ", ".join(map(str, NOISE)),
            "confidence": resamples.confidence,
            "bootstrap": resamples.number,
        },
    )


@dataclass(frozen=True, eq=False)
class _View:
    """Contents of all tables and plots."""

    ablated: Measurements
    costs: Costs
    skill: str
    """Windows that measure skill: ``controls`` or ``not extracted``."""

    @property
    def kinds(self) -> list[Kind]:
        """Kinds of parts that were removed."""
        present = {ablation.kind for ablation in self.ablated.ablations}
        return [kind for kind in _STYLES if kind in present]

    @property
    def numbers(self) -> list[int]:
        """Block numbers."""
        return [block.number for block in self.ablated.blocks]

    @property
    def depth(self) -> list[float]:
        """Block numbers, as places in a plot."""
        return [float(number) for number in self.numbers]

    @property
    def still_extracted(self) -> Sequence[Estimate | None]:
        """(A) share of the extracted windows that are still extracted."""
        nothing: list[Estimate | None] = [None] * len(self.ablated.ablations)
        return self.costs.still_extracted if len(self.ablated.extracted) else nothing

    def by_block(self, kind: Kind, estimates: Sequence[Estimate | None]) -> list[Estimate | None]:
        """Return those of the estimates (A) for a kind of part, block by block; None without it."""
        places = {
            ablation.block.number: place
            for place, ablation in enumerate(self.ablated.ablations)
            if ablation.kind == kind and ablation.block is not None
        }
        return [estimates[places[number]] if number in places else None for number in self.numbers]


def _with_curves_only(plot: Plot) -> Plot:
    return replace(plot, lines=[line for line in plot.lines if not np.isnan(line.y).all()])


def _extracted_table(view: _View) -> FigureTable:
    estimates = (view.still_extracted, view.costs.matched.estimates())
    cells = [view.by_block(kind, column) for kind in _STYLES for column in estimates]
    columns = heads("count", "block")
    for words in ("attention to itself", "no feed-forward"):
        columns += heads("share", f"{words}: still extracted")
        columns += heads("points", f"{words}: tokens right")
    return FigureTable(
        name="blocks-kept",
        title="Windows still extracted without a part of a block",
        says=f"Share of the {len(view.ablated.extracted)} windows that the intact model extracts "
        "from the plain prefix that are still extracted; and the change in the share of suffix "
        "tokens predicted correctly, each after the true ones.",
        columns=columns,
        rows=[[number, *row] for number, *row in zip(view.numbers, *cells, strict=True)],
    )


def _extracted_plot(view: _View) -> Plot:
    lines = [
        _line(style, view.depth, view.by_block(kind, view.still_extracted))
        for kind, style in _STYLES.items()
    ]
    return Plot(
        name="blocks-kept",
        title="Windows still extracted without a part of a block",
        says="Share of the extracted windows that are still extracted, by the block that lacks a "
        "part. If it is low, extraction needs the block; the cost to other text shows if only "
        "memory needs it.",
        x=block_axis(view.numbers),
        y=Axis("share still extracted", low=0.0, high=1.02),
        lines=lines,
    )


def _nll_table(view: _View, kind: Kind) -> FigureTable:
    costs = view.costs
    parts = {"extracted": costs.memory, "not extracted": costs.not_extracted}
    if _has_controls(view):
        parts |= {"controls": costs.skill, "difference": costs.selective}
    parts["extracted minus not extracted"] = costs.beyond_not_extracted
    columns = [view.by_block(kind, replicates.estimates()) for replicates in parts.values()]
    rows: list[list[Cell]] = [
        [number, *row]
        for number, *row in zip(view.numbers, *columns, strict=True)
        if row[0] is not None
    ]
    difference = "of extracted windows minus controls, and " if _has_controls(view) else ""
    return FigureTable(
        name=f"nll-{kind}",
        title=_title(kind),
        says="Rise of the suffix NLL, nats/token, over that of the intact model, by group. Last: "
        f"the rise {difference}of extracted windows minus windows that are not extracted. "
        f"{_intact(view)}",
        columns=[*heads("count", "block"), *heads("nats", *parts)],
        rows=rows,
    )


def _intact(view: _View) -> str:
    """Return a sentence on the intact model's NLL by group."""
    ablated = view.ablated
    groups = {"extracted": ablated.extracted, "not extracted": ablated.not_extracted}
    if _has_controls(view):
        groups["controls"] = ablated.controls
    means = [f"{group.nll[0].mean():.3f} ({name})" for name, group in groups.items() if len(group)]
    return f"The intact model's NLL is {', '.join(means)}."


def _nll_plot(view: _View, kind: Kind) -> Plot:
    groups = [
        (_Style("extracted", COLOURS["extracted"]), view.costs.memory),
        (_Style("not extracted", COLOURS["not extracted"]), view.costs.not_extracted),
    ]
    if _has_controls(view):
        groups.append((_Style("controls", COLOURS["controls"], ":"), view.costs.skill))
    lines = [
        _line(style, view.depth, view.by_block(kind, replicates.estimates()))
        for style, replicates in groups
    ]
    return Plot(
        name=f"nll-{kind}",
        title=_title(kind),
        says="Rise of the NLL of each group's suffixes without the part. If the lines diverge, the "
        "block serves one kind of text more than another.",
        x=block_axis(view.numbers),
        y=Axis("rise of suffix NLL (nats/token)"),
        lines=lines,
    )


def _skill_table(view: _View) -> FigureTable:
    costs = view.costs
    columns = (costs.skill, costs.lost, costs.memory, costs.excess, costs.excess_lost)
    estimates: list[list[Estimate | None]] = [[*entry.estimates()] for entry in columns]
    estimates[1] = [_lost(share) for share in view.still_extracted]
    rows: list[list[Cell]] = [
        [_name(entry), *(column[place] for column in estimates)]
        for place, entry in enumerate(view.ablated.ablations)
        if entry.kind != "intact"
    ]
    return FigureTable(
        name="memory-skill",
        title="Memory lost against skill lost",
        says="Each part, and noise of several strengths in every block as a control: the cost to "
        "extracted windows beyond that of noise that harms "
        f"{view.skill} as much. Empty for noise, if no noise harms them as much, and if both lose "
        "all.",
        columns=[
            *heads("text", "without"),
            *heads("nats", f"{view.skill}: rise of NLL"),
            *heads("share", "extracted: lost"),
            *heads("nats", "extracted: rise of NLL", "rise beyond noise"),
            *heads("points", "lost beyond noise"),
        ],
        rows=rows,
    )


def _lost(share: Estimate | None) -> Estimate | None:
    """Return the share lost, 1 minus the share still extracted; None without bounds."""
    if share is None or share.value is None or share.low is None or share.high is None:
        return None
    return Estimate(1 - share.value, 1 - share.high, 1 - share.low)


def _skill_plot(view: _View) -> Plot:
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


def _has_controls(view: _View) -> bool:
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


def _line(style: _Style, x: Sequence[float], cells: Sequence[Estimate | None]) -> Line:
    return Line.of(style.name, style.colour, x, cells, dash=style.dash, marker=style.marker)


def _positive(cell: Estimate) -> Estimate:
    """Return the estimate with None for values that a logarithmic axis cannot plot."""
    ends = (cell.value, cell.low, cell.high)
    return Estimate(*(None if end is None or end <= 0 else end for end in ends))
