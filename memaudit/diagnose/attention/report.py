"""Concentration of attention by layer and group, and what it shows.

Knows figures of windows. Knows nothing of models. Letters: N windows, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.attention.measure import FIGURES, Measurements, Windows
from memaudit.diagnose.attention.settings import AttentionSettings
from memaudit.diagnose.disclosure import ALL_WITHHELD, Disclosure
from memaudit.diagnose.section import Section, block_axis, count_clusters, group_line, heads
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Diagnosis, FigureTable, Plot
from memaudit.report.wording import count
from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_CLUSTERS, Resamples

ABOUT = (
    "Is attention more concentrated where a model returns memorized text? The diagnosis compares "
    "extracted with other windows by the entropy of attention in each layer, as a share of the "
    "largest possible, at the positions that predict the suffix (after Zeng et al. 2024)."
)
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


def report(
    measured: Measurements,
    settings: AttentionSettings,
    resamples: Resamples,
    disclosure: Disclosure,
) -> Diagnosis:
    """Compare the groups, layer by layer."""
    section = Section([ALL_WITHHELD])
    if measured.groups:
        view = _View(measured.groups, measured.blocks, resamples)
        section = Section(
            _findings(view, withheld="extracted" in disclosure.withheld),
            _notes(measured),
            [*(_table(view, name) for name in FIGURES), _auc_table(view)],
            [
                plot
                for plot in (_plot(view, "entropy"), _auc_plot(view), _plot(view, "first"))
                if plot.lines
            ],
        )
    return section.diagnosis(
        "attention",
        ABOUT,
        {
            "windows": settings.windows,
            "seed": settings.seed,
            "confidence": resamples.confidence,
            "bootstrap": resamples.number,
        },
    )


class _Pair(NamedTuple):
    """Two groups of windows to compare."""

    first: Windows
    second: Windows

    def aucs(self, resamples: Resamples, *, together: bool = False) -> list[Estimate]:
        """Return by layer the AUC of concentration (1 minus entropy), first against second.

        together: intervals hold for all layers at once.
        """
        positive = np.repeat([True, False], [len(self.first), len(self.second)])
        clusters = np.concatenate([group.clusters for group in self])
        scores = 1 - np.concatenate([group.figures["entropy"] for group in self])
        return resamples.aucs(scores, positive, clusters, together=together)


@dataclass(frozen=True, eq=False)
class _View:
    """Data of all findings, tables and plots."""

    groups: Mapping[str, Windows]
    blocks: Sequence[int]
    resamples: Resamples

    @property
    def pairs(self) -> list[_Pair]:
        """Each group against windows that are not extracted, controls last; without such windows,
        against controls.
        """
        rest = self.groups.get("not extracted", self.groups.get("controls"))
        if rest is None:
            return []
        names = [name for name in ("extracted", "hidden", "controls") if name in self.groups]
        return [_Pair(self.groups[name], rest) for name in names if self.groups[name] is not rest]

    @property
    def depth(self) -> list[float]:
        """(L,) numbers of the blocks, as places in a plot."""
        return [float(number) for number in self.blocks]

    def means(self, figure: str) -> dict[str, list[Estimate]]:
        """Return the mean of a figure by layer, by group."""
        return {
            name: self.resamples.each_mean(group.figures[figure], group.clusters)
            for name, group in self.groups.items()
        }

    def rows(self, columns: Sequence[Sequence[Estimate]]) -> list[list[Cell]]:
        """Return rows by layer."""
        return [
            [number, *(column[at] for column in columns)] for at, number in enumerate(self.blocks)
        ]


def _findings(view: _View, *, withheld: bool) -> list[str]:
    few = {
        name
        for name, group in view.groups.items()
        if count_clusters(group.clusters) < LEAST_CLUSTERS
    }
    extracted = view.groups.get("extracted")
    findings = []
    if extracted is None and withheld:
        findings.append("Too few windows are extracted for figures of them; the notes count them.")
    elif extracted is None:
        findings.append("No window is extracted, so there is nothing to compare.")
    elif "extracted" in few:
        clusters = count(count_clusters(extracted.clusters), "near-duplicate cluster")
        findings.append(
            f"Too few windows are extracted to compare: {count(len(extracted), 'window')} in "
            f"{clusters}."
        )
    if not view.pairs:
        findings.append("There is nothing to compare with: only one group of windows has figures.")
    elif view.pairs[0].second.name in few:
        return [
            *findings,
            f"There are too few {_windows(view.pairs[0].second.name)} to compare with.",
        ]
    return findings + [
        _describe_pair(view, pair) for pair in view.pairs if pair.first.name not in few
    ]


def _windows(name: str) -> str:
    return name if name == "controls" else f"{name} windows"


def _describe_pair(view: _View, pair: _Pair) -> str:
    """Describe the strongest contrast of a pair, with an interval joint over all layers."""
    aucs = pair.aucs(view.resamples, together=True)
    # The layer whose AUC is furthest from a half; the first if none is known.
    at = int(np.argmax([-1.0 if auc.value is None else abs(auc.value - 0.5) for auc in aucs]))
    named = f"{_windows(pair.first.name)} against {_windows(pair.second.name)}"
    named = named[0].upper() + named[1:]
    if pair.first.name == "controls":
        named = f"The control, {_windows(pair.first.name)} against {_windows(pair.second.name)}"
    auc = ", ".join(aucs[at].parts(".2f"))
    clear = [place for place, area in enumerate(aucs) if area.above(0.5) or area.below(0.5)]
    if at not in clear:
        return (
            f"{named}: the concentration of attention differs beyond chance in no block; the "
            f"difference is largest in block {view.blocks[at]} (AUC {auc})."
        )
    more = "more" if aucs[at].above(0.5) else "less"
    means = " against ".join(f"{group.figures['entropy'][:, at].mean():.3f}" for group in pair)
    return (
        f"{named}: attention is {more} concentrated in the former in block {view.blocks[at]}, "
        f"where the difference is largest (AUC {auc}; entropy {means}). It differs beyond chance "
        f"in {len(clear)} of {len(aucs)} blocks."
    )


def _notes(measured: Measurements) -> list[str]:
    read = len(measured.blocks)
    notes = [
        "AUC: the chance that attention is more concentrated (1 minus entropy) in a window of the "
        "first group than in one of the second; 0.5 means no difference. Intervals in the findings "
        f"hold for all {read} layers at once (by the largest deviation in each resample); those in "
        "tables and plots hold for each layer.",
        "Repetitive or formulaic text concentrates attention too, extracted or not. A contrast "
        "shows how the model works when it recites; it does not prove memory.",
        "Weights were read with eager attention; the run's own implementation may round "
        "differently.",
    ]
    if not measured.has_controls:
        notes.append(
            "The run had no controls, so it is unknown whether other text shows the same contrast."
        )
    if read < measured.depth:
        numbers = ", ".join(map(str, measured.blocks))
        notes.append(f"Only these blocks, of {measured.depth}, give attention weights: {numbers}.")
    if not measured.whole:
        notes.append(
            "Attention sinks of the model take a share of each position's attention; figures are "
            "shares of the rest."
        )
    return notes


def _table(view: _View, figure: str) -> FigureTable:
    title, _, caption = _HEADS[figure]
    return FigureTable(
        name=f"attention-{figure}",
        title=title,
        says=f"{caption} Means over heads, positions and windows.",
        columns=[*heads("count", "block"), *heads("number", *view.groups)],
        rows=view.rows(list(view.means(figure).values())),
    )


def _plot(view: _View, figure: str) -> Plot:
    title, axis, caption = _HEADS[figure]
    return Plot(
        name=f"attention-{figure}",
        title=title,
        says=caption,
        x=block_axis(view.blocks),
        y=Axis(axis),
        lines=[
            group_line(name, view.depth, means, marker="o")
            for name, means in view.means(figure).items()
        ],
    )


def _auc_table(view: _View) -> FigureTable:
    names = [f"{first.name} from {second.name}" for first, second in view.pairs]
    return FigureTable(
        name="attention-auc",
        title=_AUC_TITLE,
        says="AUC of the concentration of attention (1 minus entropy), first group against second. "
        "Above 0.5, attention is more concentrated in the first group; below 0.5, less. No "
        f"interval below {LEAST_CLUSTERS} clusters of either group.",
        columns=[*heads("count", "block"), *heads("number", *names)],
        rows=view.rows([pair.aucs(view.resamples) for pair in view.pairs]),
    )


def _auc_plot(view: _View) -> Plot:
    lines = []
    for pair in view.pairs:
        name, aucs = f"{pair.first.name} from {pair.second.name}", pair.aucs(view.resamples)
        lines.append(group_line(pair.first.name, view.depth, aucs, name=name, marker="o"))
    if lines:
        ends = [view.depth[0], view.depth[-1]]
        lines.append(Line("chance", "series-3", ends, [0.5, 0.5], dash="--"))
    return Plot(
        name="attention-auc",
        title=_AUC_TITLE,
        says="Above 0.5, attention is more concentrated in the first group. Controls against "
        "windows that are not extracted are the reference: the model recites neither.",
        x=block_axis(view.blocks),
        y=Axis("AUC", low=0.0, high=1.0),
        lines=lines,
    )
