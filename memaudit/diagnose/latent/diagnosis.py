"""``diagnose latent``: windows that the model remembers but the plain prefix does not extract.

Duan et al. 2024, "Uncovering Latent Memories" (arXiv 2406.14549). Knows the order of the steps
and puts their results together; each step has a module of its own.
"""

from __future__ import annotations

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.latent.above_controls import (
    ALLOWED,
    AboveControls,
    above_controls,
    above_table,
)
from memaudit.diagnose.latent.findings import ABOUT, Results, findings_of, notes_of
from memaudit.diagnose.latent.known_run import known_windows
from memaudit.diagnose.latent.population import (
    NLL,
    Population,
    Unextracted,
    gather,
    nll_before,
    select_unextracted,
)
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
from memaudit.diagnose.latent.recovered import EXTRACTED, recovered, recovered_table
from memaudit.diagnose.latent.settings import LatentSettings
from memaudit.diagnose.latent.spread import Group, spread_of
from memaudit.diagnose.latent.trial import PERTURBED, Noise, Trial, run_trial
from memaudit.diagnose.subject import Subject
from memaudit.errors import UsageError
from memaudit.report.diagnosis import Diagnosis
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools


def diagnose_latent(subject: Subject, settings: LatentSettings, progress: Progress) -> Diagnosis:
    """Score the windows that ``none`` does not extract, perturb the weights, and judge the scores.

    Raises:
        UsageError: every window is extracted, or there is nothing to judge by; a reference or a
            known run does not fit.
        TargetError: the weights cannot be perturbed, or the reference cannot be loaded.
    """
    unextracted = select_unextracted(subject)
    _require_something(subject, unextracted, settings)
    known = None
    if settings.known is not None:
        known = known_windows(settings.known, subject.run, subject.data.rows)
        known = known[~subject.data.extracted]
    population = _population(subject, unextracted, known, settings, progress)
    trial = _trial(subject, unextracted, population, settings, progress)
    with progress.stage("latent: judging", 1) as advance:
        results = _results(subject, unextracted, population, trial, settings)
        diagnosis = _diagnosis(subject, unextracted, population, results, settings)
        advance(1)
    return diagnosis


def _require_something(
    subject: Subject, unextracted: Unextracted, settings: LatentSettings
) -> None:
    alone = len(subject.data.attacks) < 2 and unextracted.controls is None
    if alone and settings.known is None and not settings.draws:
        raise UsageError(
            f"{subject.run.folder}: nothing to judge by; the diagnosis needs controls, another "
            "attack on the model, --known or --set draws"
        )


def _population(
    subject: Subject,
    unextracted: Unextracted,
    known: Bools | None,
    settings: LatentSettings,
    progress: Progress,
) -> Population:
    total = sum(map(len, unextracted.parts))
    if known is not None:
        known = np.append(known, np.zeros(total - len(known), dtype=bool))
    if settings.reference is None:
        before = nll_before(subject, unextracted, None, lambda done: None)
    else:
        with progress.stage("latent: reference", total) as advance:
            before = nll_before(subject, unextracted, settings.reference, advance)
    with progress.stage("latent: scores", total) as advance:
        return gather(subject, unextracted, known, before, settings.min_k, advance)


def _trial(
    subject: Subject,
    unextracted: Unextracted,
    population: Population,
    settings: LatentSettings,
    progress: Progress,
) -> Trial | None:
    if not settings.draws:
        return None
    noise = _noise(settings)
    return run_trial(subject, unextracted, population, noise, settings.windows, progress)


def _noise(settings: LatentSettings) -> Noise:
    return Noise(settings.strength, settings.draws, settings.seed)


def _results(
    subject: Subject,
    unextracted: Unextracted,
    population: Population,
    trial: Trial | None,
    settings: LatentSettings,
) -> Results:
    resamples = subject.resamples(settings.seed)
    questions = [HIDDEN] if len(subject.data.attacks) > 1 else []
    questions += [KNOWN] if population.known is not None else []
    questions += [AMONG_CONTROLS] if unextracted.controls is not None else []
    sampled = None if trial is None else trial.sampled
    disclosure = subject.disclosure
    few = {
        question.name: question
        for question in questions
        if too_few(population, question, disclosure)
    }
    answers = [
        answer(question, population, sampled, settings.top, resamples, disclosure)
        for question in questions
        if question.name not in few
    ]
    controls = subject.controls
    return Results(
        unextracted=len(unextracted.data),
        controls=0 if unextracted.controls is None else len(unextracted.controls),
        controls_extracted=0 if controls is None else int(controls.extracted.sum()),
        asked=len(subject.data.attacks) > 1,
        answers=answers,
        unanswered={
            name: (question, positives(population, question)) for name, question in few.items()
        },
        above_controls=_above_controls(population, sampled, resamples, disclosure),
        recovered={} if trial is None else recovered(trial, resamples, disclosure),
        noise=None if trial is None else _noise(settings),
    )


def _above_controls(
    population: Population, sampled: Population | None, resamples: Resamples, disclosure: Disclosure
) -> list[AboveControls]:
    """Count windows above the controls by every score; perturbed scores exist for a sample."""
    control, clusters = population.control, population.clusters
    sides = {"not extracted": clusters[~control], "controls": clusters[control]}
    if not control.any() or not disclosure.admits_all(sides):
        return []
    known_from = dict.fromkeys(population.scores, population)
    if sampled is not None and all(
        disclosure.covers(sampled.clusters[rows]) for rows in (sampled.control, ~sampled.control)
    ):
        known_from |= dict.fromkeys(PERTURBED, sampled)
    return [
        above_controls(source, name, allowed, resamples)
        for name, source in known_from.items()
        for allowed in ALLOWED
    ]


def _groups(subject: Subject, unextracted: Unextracted, population: Population) -> dict[str, Group]:
    """Return the groups of windows whose NLLs are compared."""
    nll, clusters = -population.scores[NLL], population.clusters
    hidden, control = population.hidden & ~population.control, population.control
    extracted = subject.data.take(subject.data.extracted)
    groups = {
        EXTRACTED: Group(extracted.score("suffix_nll", "none"), extracted.clusters, "series-1"),
        "another attack extracts": Group(nll[hidden], clusters[hidden], "series-4"),
        "other windows": Group(nll[~hidden & ~control], clusters[~hidden & ~control], "series-2"),
        "controls": Group(nll[control], clusters[control], "series-3", ":"),
    }
    return {
        name: group
        for name, group in groups.items()
        if len(group.nll) and subject.disclosure.admits(name, group.clusters)
    }


def _diagnosis(
    subject: Subject,
    unextracted: Unextracted,
    population: Population,
    results: Results,
    settings: LatentSettings,
) -> Diagnosis:
    scores = subject.config.scores
    tables, plots = [], []
    if results.above_controls:
        tables.append(above_table(results.above_controls, scores.confidence))
    if results.noise is not None:
        tables.append(recovered_table(results.recovered, results.noise))
    tables += [table_of(answer, settings.top) for answer in results.answers]
    if results.answers:
        # A known run is better evidence than another attack, and that better than membership.
        by_name = {answer.question.name: answer for answer in results.answers}
        order = (KNOWN, HIDDEN, AMONG_CONTROLS)
        best = next(by_name[question.name] for question in order if question.name in by_name)
        table, plot = curve_of(best)
        tables.append(table)
        plots.append(plot)
    groups = _groups(subject, unextracted, population)
    if groups:
        table, plot = spread_of(groups, subject.resamples(settings.seed))
        tables.append(table)
        plots.append(plot)
    return Diagnosis(
        name="latent",
        about=ABOUT,
        findings=findings_of(results),
        notes=notes_of(results, tuple(population.scores), population.dropped),
        tables=tables,
        plots=plots,
        settings=_describe_settings(settings),
    )


def _describe_settings(settings: LatentSettings) -> dict[str, str]:
    described = {
        "windows": f"{settings.windows:,} of each group for perturbed weights, otherwise all",
        "top": f"{settings.top:,}",
        "min_k": f"{settings.min_k:g}",
        "draws": f"{settings.draws:,}",
        "strength": f"{settings.strength:g}",
        "seed": str(settings.seed),
    }
    if settings.reference is not None:
        described["reference"] = settings.reference
    if settings.known is not None:
        described["known"] = str(settings.known)
    return described
