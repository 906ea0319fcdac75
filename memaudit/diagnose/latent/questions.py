"""Questions which windows a score should find, and their answers as tables and a ROC plot.

Knows scored windows and detectors. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.latent.detectors import GRID, Detector, Labelled, by_chance, gap, judge
from memaudit.diagnose.latent.measure import AGAINST, MIN_K_PLUS, NLL, Population
from memaudit.diagnose.latent.perturbation import BEST_MATCHED, PERTURBED, RELATIVE_RISE
from memaudit.diagnose.section import heads
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, FigureTable, Plot
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
"""Colours of the lines of the plot."""
_AT = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of false positives in its table."""


@dataclass(frozen=True)
class Question:
    """Windows to find among other windows."""

    name: str
    """Table name."""
    positives: str
    """Positives, as worded in a sentence."""
    negatives: str
    """Negatives, as worded in a sentence."""


_OTHERS = "other windows that the plain prefix does not extract"
HIDDEN = Question("hidden", "windows that another attack extracts", _OTHERS)
KNOWN = Question("known", "windows that the known run extracts", _OTHERS)
AMONG_CONTROLS = Question(
    "data-among-controls", "windows of the data that the plain prefix does not extract", "controls"
)


class Judged(NamedTuple):
    """Figures of one score."""

    detector: Detector
    windows: int
    """Windows that have the score."""
    gap: Estimate | None
    """AUC minus that of the NLL; None for the NLL itself and for `CHANCE`."""
    finest: float
    """Largest share of the negatives that a single window represents."""


@dataclass(frozen=True, eq=False)
class Answer:
    """Figures of how well each score finds the positives of a question."""

    question: Question
    positives: int
    total: int
    """Positives and negatives."""
    base_rate: float
    top: int
    """k of precision@k."""
    scores: Mapping[str, Judged]
    """Each score by name, in the order of the table; `CHANCE` is the last."""
    perturbed: Mapping[str, Estimate]
    """Gaps of the scores of perturbed weights, with joint intervals (Bonferroni)."""
    best: Mapping[str, Estimate]
    """AUC of the two best scores, on the windows that have all scores."""
    best_of: int
    """Number of these windows."""
    best_gap: Estimate | None
    """AUC of the best score minus that of the second, with an interval that allows for the choice
    among all scores (Bonferroni)."""


def too_few(population: Population, question: Question, disclosure: Disclosure) -> bool:
    """Return whether a question has too few clusters of either kind for an answer."""
    windows = _labelled(population, question)
    positive, clusters = windows.positive, windows.clusters
    sides = {question.positives: clusters[positive], question.negatives: clusters[~positive]}
    if not disclosure.admits_all(sides):
        return True
    return fewest_clusters(clusters, positive, ~positive) < LEAST_CLUSTERS


def positives(population: Population, question: Question) -> int:
    """Count the windows to find."""
    return int(_labelled(population, question).positive.sum())


def answer(
    question: Question,
    population: Population,
    sampled: Population | None,
    top: int,
    resamples: Resamples,
    disclosure: Disclosure,
) -> Answer:
    """Judge every score: those of one pass on all windows, those of perturbations on ``sampled``.

    Raises ValueError for too few windows.
    """
    windows, whole = _judge(question, population, top, resamples)
    every, both, scores = windows, whole, _judged(whole, windows, resamples)
    if sampled is not None and not too_few(sampled, question, disclosure):
        every, both = _judge(question, sampled, top, resamples)
        scores = {**_judged(both, every, resamples), **scores}
    perturbed = [name for name in PERTURBED if name in scores and name not in whole]
    best = sorted(both, key=lambda name: -(both[name].auc.value or 0.0))[:2]
    chance = Judged(by_chance(windows, top, resamples), len(windows.positive), None, 0.0)
    return Answer(
        question=question,
        positives=int(windows.positive.sum()),
        total=len(windows.positive),
        base_rate=windows.base_rate,
        top=min(top, len(windows.positive)),
        scores={**{name: scores[name] for name in (*whole, *perturbed)}, CHANCE: chance},
        perturbed={
            name: gap(both[name], both[NLL], shared(resamples.confidence, len(perturbed)))
            for name in perturbed
        },
        best={name: both[name].auc for name in best},
        best_of=len(every.positive),
        best_gap=gap(both[best[0]], both[best[1]], shared(resamples.confidence, len(both)))
        if len(best) > 1
        else None,
    )


def _judged(
    detectors: Mapping[str, Detector], windows: Labelled, resamples: Resamples
) -> dict[str, Judged]:
    weights = windows.weights[~windows.positive]
    finest = float(weights.max() / weights.sum())
    return {
        name: Judged(
            detector,
            len(windows.positive),
            None if name == NLL else gap(detector, detectors[NLL], resamples.confidence),
            finest,
        )
        for name, detector in detectors.items()
    }


def _judge(
    question: Question, population: Population, top: int, resamples: Resamples
) -> tuple[Labelled, dict[str, Detector]]:
    rows, windows = _rows(population, question), _labelled(population, question)
    scores = {name: score[rows] for name, score in population.scores.items()}
    return windows, judge(scores, windows, top, resamples)


def _rows(population: Population, question: Question) -> Ints:
    if question is AMONG_CONTROLS:
        return np.arange(len(population.control))
    return np.flatnonzero(population.data)


def _labelled(population: Population, question: Question) -> Labelled:
    rows = _rows(population, question)
    positive = {
        HIDDEN.name: population.hidden,
        KNOWN.name: population.known_data,
        AMONG_CONTROLS.name: population.data,
    }[question.name]
    return Labelled(positive[rows], population.clusters[rows], population.weights[rows])


def table_of(answer: Answer, top: int) -> FigureTable:
    """Table with a row for each score."""
    question = answer.question
    columns = [
        *(*heads("text", "score"), *heads("count", "windows")),
        *heads("number", "ROC AUC", "AUC minus NLL's"),
        *heads("share", f"precision, top {top:,}", "found at 1 % false"),
    ]
    rows: list[Sequence[Cell]] = [
        (name, windows, detector.auc, gap, detector.precision, detector.recall)
        for name, (detector, windows, gap, _) in answer.scores.items()
    ]
    return FigureTable(
        name=question.name,
        title=f"Finding {question.positives} among {question.negatives}",
        says=(
            f"{answer.positives:,} of {answer.total:,} windows are positive, so a random score has "
            f"a precision of {100 * answer.base_rate:.3g} %. The last column is the share of the "
            "positives that score above all but 1 % of the negatives. Intervals resample whole "
            "clusters; that of random numbers is their range. Scores of perturbed weights come "
            "from a sample of the windows, weighted to represent all."
        ),
        columns=columns,
        rows=rows,
    )


def curve_of(answer: Answer) -> tuple[FigureTable, Plot]:
    """Table and plot of the ROC curves of a few scores."""
    names = [name for name in _COLOURS if name in answer.scores]
    negatives = answer.total - answer.positives
    lines = [
        _line(name, answer.scores[name].detector, _places(answer.scores[name].finest))
        for name in names
    ]
    x = GRID[_places(1 / negatives)].tolist()
    lines.append(Line("chance", "series-3", x, x, dash=":"))
    title = f"Share found of {answer.question.positives}"
    caption = (
        f"Share of the {answer.positives:,} found at each share of false positives among the "
        f"{negatives:,} {answer.question.negatives}. A curve starts at the share that a single "
        "window represents. The band is the interval of the NLL's curve."
    )
    plot = Plot("roc", title, caption, _axis(x), Axis("share found", low=0, high=1), lines)
    rows: list[Sequence[Cell]] = []
    for share in _AT:
        if share * negatives < 1 - 1e-9:
            continue
        at = int(np.searchsorted(GRID, share * (1 + 1e-9), side="right")) - 1
        cells = (
            score.detector.curve[at] if share >= score.finest * (1 - 1e-9) else None
            for score in map(answer.scores.__getitem__, names)
        )
        rows.append((share, *cells))
    return FigureTable("roc", title, caption, heads("share", "false positives", *names), rows), plot


def _places(finest: float) -> Ints:
    """Return the places of `GRID` from ``finest`` on."""
    return np.flatnonzero(max(_AT[0], finest) * (1 - 1e-9) <= GRID)


def _axis(x: Sequence[float]) -> Axis:
    ticks = [tick for tick in (0.001, 0.01, 0.1, 1.0) if tick >= x[0] * (1 - 1e-9)]
    names = [f"{100 * tick:g} %" for tick in ticks]
    return Axis("false positives", logarithmic=True, ticks=ticks, names=names)


def _line(name: str, detector: Detector, places: Ints) -> Line:
    curve = [detector.curve[at] for at in places]
    line = Line.of(name, _COLOURS[name], GRID[places].tolist(), curve)
    return line if name == NLL else replace(line, low=None, high=None)
