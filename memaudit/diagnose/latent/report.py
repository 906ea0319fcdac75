"""What the scores show: answers, windows above the controls, and the spread of the NLL by group.

Knows figures of windows and the order of the report. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.latent.findings import ABOUT, Results, findings_of, notes_of
from memaudit.diagnose.latent.judging import (
    ALLOWED,
    EXTRACTED,
    AboveControls,
    above_controls,
    above_table,
    recovered,
    recovered_table,
)
from memaudit.diagnose.latent.measure import NLL, Measurements
from memaudit.diagnose.latent.perturbation import PERTURBED
from memaudit.diagnose.latent.questions import (
    AMONG_CONTROLS,
    HIDDEN,
    KNOWN,
    answer,
    curve_of,
    positives,
    table_of,
    too_few,
)
from memaudit.diagnose.latent.settings import LatentSettings
from memaudit.diagnose.section import COLOURS, Section, heads
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Diagnosis, FigureTable, Plot
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Floats, Ints

_POINTS, _ROWS = 40, 11
"""Points of the plot of the NLL, and rows of its table."""
_HIGHEST = 0.98
"""Share of all windows below the last point."""


def report(
    measured: Measurements, settings: LatentSettings, resamples: Resamples, disclosure: Disclosure
) -> Diagnosis:
    """Judge the scores, and describe the groups of windows."""
    results = _results(measured, settings, resamples, disclosure)
    tables, plots = [], []
    if results.above_controls:
        tables.append(above_table(results.above_controls, resamples.confidence))
    if measured.noise is not None:
        tables.append(recovered_table(results.recovered, measured.noise))
    tables += [table_of(answer, settings.top) for answer in results.answers]
    groups = _groups(measured, disclosure)
    curves = [spread_of(groups, resamples)] if groups else []
    if results.answers:
        # A known run is better evidence than another attack, and that better than membership.
        by_name = {answer.question.name: answer for answer in results.answers}
        order = (KNOWN, HIDDEN, AMONG_CONTROLS)
        best = next(by_name[question.name] for question in order if question.name in by_name)
        curves.insert(0, curve_of(best))
    for table, plot in curves:
        tables.append(table)
        plots.append(plot)
    section = Section(findings_of(results), notes_of(results), tables, plots)
    return section.diagnosis("latent", ABOUT, _describe_settings(settings))


def _results(
    measured: Measurements, settings: LatentSettings, resamples: Resamples, disclosure: Disclosure
) -> Results:
    population, trial = measured.population, measured.trial
    questions = [HIDDEN] if measured.has_attacks else []
    questions += [KNOWN] if population.known is not None else []
    questions += [AMONG_CONTROLS] if measured.unextracted.controls is not None else []
    few = [question for question in questions if too_few(population, question, disclosure)]
    sampled = None if trial is None else trial.sampled
    return Results(
        measured=measured,
        answers=[
            answer(question, population, sampled, settings.top, resamples, disclosure)
            for question in questions
            if question not in few
        ],
        unanswered={question: positives(population, question) for question in few},
        above_controls=_above_controls(measured, resamples, disclosure),
        recovered={} if trial is None else recovered(trial, resamples, disclosure),
    )


def _above_controls(
    measured: Measurements, resamples: Resamples, disclosure: Disclosure
) -> list[AboveControls]:
    """Count windows above the controls by every score; perturbed scores exist for a sample."""
    population, clusters = measured.population, measured.population.clusters
    control, data = population.control, population.data
    sides = {"not extracted": clusters[data], "controls": clusters[control]}
    if not control.any() or not disclosure.admits_all(sides):
        return []
    known_from = dict.fromkeys(population.scores, population)
    sampled = None if measured.trial is None else measured.trial.sampled
    if sampled is not None and all(
        disclosure.covers(sampled.clusters[rows]) for rows in (sampled.control, sampled.data)
    ):
        known_from |= dict.fromkeys(PERTURBED, sampled)
    return [
        above_controls(source, name, allowed, resamples)
        for name, source in known_from.items()
        for allowed in ALLOWED
    ]


class Group(NamedTuple):
    """Suffix NLLs of a group of n windows, and its line in the plot."""

    nll: Floats
    """(n,) nats/token."""
    clusters: Ints
    colour: str
    dash: str = "-"


def _groups(measured: Measurements, disclosure: Disclosure) -> dict[str, Group]:
    """Return the groups of windows whose NLLs are compared."""
    population, extracted = measured.population, measured.extracted
    nll, clusters = -population.scores[NLL], population.clusters
    hidden, control = population.hidden_data, population.control
    rest = population.data & ~hidden
    groups = {
        EXTRACTED: Group(
            extracted.score("suffix_nll", "none"), extracted.clusters, COLOURS["extracted"]
        ),
        "another attack extracts": Group(nll[hidden], clusters[hidden], COLOURS["hidden"]),
        "other windows": Group(nll[rest], clusters[rest], COLOURS["not extracted"]),
        "controls": Group(nll[control], clusters[control], COLOURS["controls"], ":"),
    }
    return {
        name: group
        for name, group in groups.items()
        if len(group.nll) and disclosure.admits(name, group.clusters)
    }


def spread_of(groups: Mapping[str, Group], resamples: Resamples) -> tuple[FigureTable, Plot]:
    """Table and plot of the share of each non-empty group below each NLL."""
    every = np.concatenate([group.nll for group in groups.values()])
    highest = float(f"{np.quantile(every, _HIGHEST):.1e}")  # two digits: it is nearly one window's
    places = np.linspace(0, highest, _POINTS + 1)[1:]
    curves = {
        name: _rising([resamples.rate(group.nll <= place, group.clusters) for place in places])
        for name, group in groups.items()
    }
    title = "Suffix NLL by group"
    caption = (
        "Share of the windows up to each suffix NLL. A curve left of that of the controls means "
        "that the model knows these windows better than similar text."
    )
    lines = [
        Line.of(name, group.colour, places.tolist(), curves[name], dash=group.dash)
        for name, group in groups.items()
    ]
    plot = Plot(
        "nll", title, caption, Axis("suffix NLL, nats/token"), Axis("share", low=0, high=1), lines
    )
    columns = [*heads("nats", "NLL at most"), *heads("share", *groups)]
    rows: list[Sequence[Cell]] = [
        (float(places[at]), *(curves[name][at] for name in groups))
        for at in np.linspace(0, _POINTS - 1, _ROWS).astype(int)
    ]
    return FigureTable("nll", title, caption, columns, rows), plot


def _rising(curve: Sequence[Estimate]) -> list[Estimate]:
    """Make the bounds of a rising curve rise too.

    If all windows agree at a point, its own bound would be wider than its neighbours'.
    """
    low = np.maximum.accumulate([estimate.low or 0.0 for estimate in curve])
    high = np.minimum.accumulate(
        [1.0 if estimate.high is None else estimate.high for estimate in curve[::-1]]
    )
    return [
        Estimate(estimate.value, float(lower), float(upper))
        for estimate, lower, upper in zip(curve, low, high[::-1], strict=True)
    ]


def _describe_settings(settings: LatentSettings) -> dict[str, object]:
    described: dict[str, object] = {
        "windows": f"{settings.windows:,} of each group for perturbed weights, otherwise all",
        "top": f"{settings.top:,}",
        "min_k": f"{settings.min_k:g}",
        "draws": f"{settings.draws:,}",
        "strength": f"{settings.strength:g}",
        "seed": settings.seed,
    }
    if settings.reference is not None:
        described["reference"] = settings.reference
    if settings.known is not None:
        described["known"] = settings.known
    return described
