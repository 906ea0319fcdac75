"""Which windows a score is asked to find, and how well each does: a table a question, one curve.

Knows scored windows and how detectors are judged. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.latent.detected import GRID, Crowd, Detector, by_chance, gap, judge
from memaudit.diagnose.latent.population import AGAINST, MIN_K_PLUS, NLL, Population
from memaudit.diagnose.latent.trial import BEST_MATCHED, RELATIVE_RISE, SHAKEN
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_CLUSTERS, Resamples, fewest_clusters, shared
from memaudit.score.stats import Ints

CHANCE = "random numbers (control)"
_COLOURS = {
    NLL: "series-4",
    AGAINST: "series-6",
    MIN_K_PLUS: "series-2",
    RELATIVE_RISE: "series-1",
    BEST_MATCHED: "series-5",
}
"""Lines of the plot."""
_AT = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of false positives in the table beside it."""


@dataclass(frozen=True)
class Question:
    """Some windows that are to be found among others."""

    name: str
    """Of the table."""
    wanted: str
    """What the positives are, as a sentence says it."""
    others: str
    """Likewise the negatives."""


_OTHERS = "other windows that the plain prefix does not extract"
HIDDEN = Question("hidden", "windows that another attack extracts", _OTHERS)
KNOWN = Question("known", "windows that the known run extracts", _OTHERS)
AMONG_CONTROLS = Question(
    "data-among-controls", "windows of the data that the plain prefix does not extract", "controls"
)


@dataclass(frozen=True, eq=False)
class Answer:
    """How well each score finds what a question asks for."""

    question: Question
    positives: int
    total: int
    """Windows among which they are."""
    base_rate: float
    top: int
    """Of the precision."""
    detectors: Mapping[str, Detector]
    """Of every score, in the order of the table; `CHANCE` is the last."""
    looked_at: Mapping[str, int]
    """Windows that each is known from."""
    gaps: Mapping[str, Estimate]
    """AUC minus that of the NLL, of every score but that one."""
    perturbed: Mapping[str, Estimate]
    """The same of scores of perturbed weights, with intervals that hold together (Bonferroni)."""
    best: Mapping[str, Estimate]
    """AUC of the two scores with the highest, on windows that all were judged by."""
    best_of: int
    """How many these are."""
    apart: Estimate | None
    """By how much the first of them is above the second, with an interval that allows for their
    having been chosen among as many scores (Bonferroni)."""
    finest: Mapping[str, float]
    """Of each score, the share of the negatives that one of those looked at stands for."""


def too_few(population: Population, question: Question, disclosure: Disclosure) -> bool:
    """Whether a question has too few clusters of either kind to be answered."""
    crowd = _crowd(population, question)
    positive, clusters = crowd.positive, crowd.clusters
    sides = {question.wanted: clusters[positive], question.others: clusters[~positive]}
    if not disclosure.admits_all(sides):
        return True
    return fewest_clusters(clusters, positive, ~positive) < LEAST_CLUSTERS


def positives(population: Population, question: Question) -> int:
    """Windows that are to be found."""
    return int(_crowd(population, question).positive.sum())


def answer(
    question: Question,
    everything: Population,
    drawn: Population | None,
    top: int,
    resamples: Resamples,
    disclosure: Disclosure,
) -> Answer:
    """Judge every score: those of one pass by all windows, those of perturbations by ``drawn``.

    Raises ValueError where there are too few.
    """
    crowd = _crowd(everything, question)
    whole = _judge(question, everything, top, resamples)
    parts = {name: (whole, len(crowd.positive)) for name in whole}
    both, size = whole, len(crowd.positive)
    if drawn is not None and not too_few(drawn, question, disclosure):
        both, size = _judge(question, drawn, top, resamples), len(_rows(drawn, question))
        parts |= {name: (both, size) for name in both if name not in whole}
    judged = {name: made[name] for name, (made, _) in parts.items()}
    perturbed = [name for name in SHAKEN if name in judged and name not in whole]
    finest = dict.fromkeys(parts, _finest(crowd))
    if drawn is not None and perturbed:
        finest |= dict.fromkeys(perturbed, _finest(_crowd(drawn, question)))
    best = sorted(both, key=lambda name: -(both[name].auc.value or 0.0))[:2]
    return Answer(
        question=question,
        positives=int(crowd.positive.sum()),
        total=len(crowd.positive),
        base_rate=crowd.base_rate,
        top=min(top, len(crowd.positive)),
        detectors={**judged, CHANCE: by_chance(crowd, top, resamples)},
        looked_at={
            **{name: count for name, (_, count) in parts.items()},
            CHANCE: len(crowd.positive),
        },
        gaps={
            name: gap(made[name], made[NLL], resamples.confidence)
            for name, (made, _) in parts.items()
            if name != NLL
        },
        perturbed={
            name: gap(both[name], both[NLL], shared(resamples.confidence, len(perturbed)))
            for name in perturbed
        },
        best={name: both[name].auc for name in best},
        best_of=size,
        apart=gap(both[best[0]], both[best[1]], shared(resamples.confidence, len(both)))
        if len(best) > 1
        else None,
        finest=finest,
    )


def _finest(crowd: Crowd) -> float:
    """Share of the negatives that the one that stands for the most stands for."""
    weights = crowd.weights[~crowd.positive]
    return float(weights.max() / weights.sum())


def _judge(
    question: Question, population: Population, top: int, resamples: Resamples
) -> dict[str, Detector]:
    rows = _rows(population, question)
    scores = {name: score[rows] for name, score in population.scores.items()}
    return judge(scores, _crowd(population, question), top, resamples)


def _rows(population: Population, question: Question) -> Ints:
    if question is AMONG_CONTROLS:
        return np.arange(len(population.control))
    return np.flatnonzero(~population.control)


def _crowd(population: Population, question: Question) -> Crowd:
    rows = _rows(population, question)
    positive = {
        HIDDEN.name: population.hidden,
        KNOWN.name: np.zeros_like(population.hidden)
        if population.known is None
        else population.known,
        AMONG_CONTROLS.name: ~population.control,
    }[question.name]
    return Crowd(positive[rows], population.clusters[rows], population.weights[rows])


def table_of(found: Answer, top: int) -> FigureTable:
    """A row for each score."""
    question = found.question
    columns = (
        *(Column("score", "text"), Column("windows", "count"), Column("ROC AUC", "number")),
        Column("AUC minus NLL's", "number"),
        *(Column(f"precision, top {top:,}", "share"), Column("found at 1 % false", "share")),
    )
    rows: list[Sequence[Cell]] = [
        (
            *(name, found.looked_at[name], one.auc, found.gaps.get(name)),
            *(one.precision, one.found),
        )
        for name, one in found.detectors.items()
    ]
    return FigureTable(
        name=question.name,
        title=f"Finding {question.wanted} among {question.others}",
        says=(
            f"{found.positives:,} of {found.total:,} windows are to be found, which is the "
            f"precision of a score that says nothing ({100 * found.base_rate:.3g} %). The last "
            "column: share of them that scores above all but 1 % of the others. "
            "Intervals draw whole clusters; that of random numbers is where they lie. Scores of "
            "perturbed weights are known from a part of "
            "the windows, weighted to stand for all."
        ),
        columns=columns,
        rows=rows,
    )


def curve_of(found: Answer) -> tuple[FigureTable, Plot]:
    """The ROC curves of a few scores."""
    names = [name for name in _COLOURS if name in found.detectors]
    negatives = found.total - found.positives
    lines = [
        _line(name, found.detectors[name], _shown(found.finest[name]), band=name == NLL)
        for name in names
    ]
    x = GRID[_shown(1 / negatives)].tolist()
    lines.append(Line("chance", "series-3", x, x, dash=":"))
    title = f"Share found of {found.question.wanted}"
    says = (
        f"How many of the {found.positives:,} are found where a share of the {negatives:,} "
        f"{found.question.others} passes for them too, from where one of those looked at would "
        "stand; the band is the interval of the NLL's curve."
    )
    plot = Plot("roc", title, says, _axis(x), Axis("share found", low=0, high=1), lines)
    rows: list[Sequence[Cell]] = []
    for share in _AT:
        if share * negatives < 1 - 1e-9:
            continue
        at = int(np.searchsorted(GRID, share * (1 + 1e-9), side="right")) - 1
        cells = (
            found.detectors[name].curve[at] if share >= found.finest[name] * (1 - 1e-9) else None
            for name in names
        )
        rows.append((share, *cells))
    columns = [Column("false positives", "share"), *(Column(name, "share") for name in names)]
    return FigureTable("roc", title, says, columns, rows), plot


def _shown(finest: float) -> Ints:
    """Places of `GRID` from the share of the negatives that one of them stands for."""
    return np.flatnonzero(max(_AT[0], finest) * (1 - 1e-9) <= GRID)


def _axis(x: Sequence[float]) -> Axis:
    ticks = [tick for tick in (0.001, 0.01, 0.1, 1.0) if tick >= x[0] * (1 - 1e-9)]
    names = [f"{100 * tick:g} %" for tick in ticks]
    return Axis("false positives", logarithmic=True, ticks=ticks, names=names)


def _line(name: str, detector: Detector, shown: Ints, *, band: bool) -> Line:
    curve = [detector.curve[at] for at in shown]
    line = Line.of(name, _COLOURS[name], GRID[shown].tolist(), curve)
    return line if band else replace(line, low=None, high=None)
