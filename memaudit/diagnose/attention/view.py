"""Concentration of attention by layer and group, as tables and plots.

Knows figures and their form. Must not draw conclusions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from memaudit.diagnose.attention.figures import Windows, contrasts
from memaudit.diagnose.attention.weights import FIGURES
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_CLUSTERS, Resamples

_COLOURS = {
    "extracted": "series-1",
    "hidden": "series-4",
    "not extracted": "series-2",
    "controls": "series-3",
}
_HEADS = {
    "entropy": (
        "Entropy of attention by layer",
        "entropy, share of the largest",
        "At the positions that predict the suffix: 1 if a position attends equally to all "
        "positions that it sees, 0 if it attends to a single one.",
    ),
    "largest": (
        "Largest attention weight by layer",
        "largest weight",
        "Weight of the position with the most attention.",
    ),
    "first": (
        "Attention to the first position by layer",
        "weight of the first position",
        "Many models direct much of their attention to the first position, whatever its token (an "
        "attention sink); that counts as concentration too.",
    ),
}
_AUC_TITLE = "AUC of concentration between groups"


class Pair(NamedTuple):
    """Two groups of windows to compare."""

    first: Windows
    second: Windows


@dataclass(frozen=True, eq=False)
class View:
    """Data of all tables and plots."""

    groups: Mapping[str, Windows]
    """Groups by name, in the order of the legend; none is empty."""
    blocks: Sequence[int]
    """(L,) numbers of the blocks that were read."""
    resamples: Resamples

    @property
    def pairs(self) -> list[Pair]:
        """Each group against windows that are not extracted, controls last; without such windows,
        against controls.
        """
        rest = self.groups.get("not extracted", self.groups.get("controls"))
        if rest is None:
            return []
        names = [name for name in ("extracted", "hidden", "controls") if name in self.groups]
        return [Pair(self.groups[name], rest) for name in names if self.groups[name] is not rest]


def tables(view: View) -> list[FigureTable]:
    """Tables of all figures."""
    return [*(_table(view, name) for name in FIGURES), _auc_table(view)]


def plots(view: View) -> list[Plot]:
    """Plots of the main figures."""
    candidates = [_plot(view, "entropy"), _auc_plot(view), _plot(view, "first")]
    return [plot for plot in candidates if plot.lines]


def _means(view: View, figure: str, group: Windows) -> list[Estimate]:
    return view.resamples.each_mean(group.figures[figure], group.clusters)


def _table(view: View, figure: str) -> FigureTable:
    title, _, caption = _HEADS[figure]
    return FigureTable(
        name=f"attention-{figure}",
        title=title,
        says=f"{caption} Means over heads, positions and windows.",
        columns=[Column("block", "count"), *(Column(name, "number") for name in view.groups)],
        rows=_rows(view, [_means(view, figure, group) for group in view.groups.values()]),
    )


def _rows(view: View, columns: Sequence[Sequence[Estimate]]) -> list[list[Cell]]:
    return [
        [number, *(column[place] for column in columns)] for place, number in enumerate(view.blocks)
    ]


def _plot(view: View, figure: str) -> Plot:
    title, axis, caption = _HEADS[figure]
    return Plot(
        name=f"attention-{figure}",
        title=title,
        says=caption,
        x=_depth(view),
        y=Axis(axis),
        lines=[
            _line(view, name, _COLOURS[name], _means(view, figure, group))
            for name, group in view.groups.items()
        ],
    )


def _aucs(view: View, pair: Pair) -> list[Estimate]:
    return contrasts(pair.first, pair.second, view.resamples, together=False)


def _auc_table(view: View) -> FigureTable:
    return FigureTable(
        name="attention-auc",
        title=_AUC_TITLE,
        says="AUC of the concentration of attention (1 minus entropy), first group against second. "
        "Above 0.5, attention is more concentrated in the first group; below 0.5, less. No "
        f"interval below {LEAST_CLUSTERS} clusters of either group.",
        columns=[
            Column("block", "count"),
            *(Column(f"{first.name} from {second.name}", "number") for first, second in view.pairs),
        ],
        rows=_rows(view, [_aucs(view, pair) for pair in view.pairs]),
    )


def _auc_plot(view: View) -> Plot:
    lines = []
    for pair in view.pairs:
        name = f"{pair.first.name} from {pair.second.name}"
        lines.append(_line(view, name, _COLOURS[pair.first.name], _aucs(view, pair)))
    if lines:
        ends = [float(view.blocks[0]), float(view.blocks[-1])]
        lines.append(Line("chance", "series-3", ends, [0.5, 0.5], dash="--"))
    return Plot(
        name="attention-auc",
        title=_AUC_TITLE,
        says="Above 0.5, attention is more concentrated in the first group. Controls against "
        "windows that are not extracted are the reference: the model recites neither.",
        x=_depth(view),
        y=Axis("AUC", low=0.0, high=1.0),
        lines=lines,
    )


def _depth(view: View) -> Axis:
    step = -(-len(view.blocks) // 16)
    return Axis("block", ticks=[float(number) for number in view.blocks[::step]])


def _line(view: View, name: str, colour: str, cells: Sequence[Estimate]) -> Line:
    depth = [float(number) for number in view.blocks]
    dash = ":" if colour == _COLOURS["controls"] else "-"
    return Line.of(name, colour, depth, cells, dash=dash, marker="o")
