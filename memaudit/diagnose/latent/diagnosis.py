"""``diagnose latent``: windows that do not come out and that the model remembers all the same.

Duan et al. 2024, "Uncovering Latent Memories" (arXiv 2406.14549). Knows the parts of the answer
and puts them together; each is worked out where its name stands.
"""

from __future__ import annotations

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.latent.beyond import ALLOWED, Beyond, beyond, beyond_table
from memaudit.diagnose.latent.findings import ABOUT, Results, findings_of, notes_of
from memaudit.diagnose.latent.known_run import known_windows
from memaudit.diagnose.latent.population import NLL, Left, Population, gather, left_over, nll_before
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
from memaudit.diagnose.latent.trial import SHAKEN, Noise, Trial, run_trial
from memaudit.diagnose.subject import Subject
from memaudit.errors import UsageError
from memaudit.report.diagnosis import Diagnosis
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools


def diagnose_latent(subject: Subject, settings: LatentSettings, progress: Progress) -> Diagnosis:
    """Score what ``none`` leaves over, perturb the weights, and judge both as detectors.

    Raises:
        UsageError: there is nothing to look at, or nothing can be said; a reference or a known run
            does not fit.
        TargetError: the weights cannot be perturbed, or the reference cannot be loaded.
    """
    left = left_over(subject)
    _require_something(subject, left, settings)
    known = None
    if settings.known is not None:
        known = known_windows(settings.known, subject.run, subject.data.rows)
        known = known[~subject.data.extracted]
    everything = _everything(subject, left, known, settings, progress)
    trial = _trial(subject, left, everything, settings, progress)
    with progress.stage("latent: judging", 1) as advance:
        results = _results(subject, left, everything, trial, settings)
        found = _diagnosis(subject, left, everything, results, settings)
        advance(1)
    return found


def _require_something(subject: Subject, left: Left, settings: LatentSettings) -> None:
    alone = len(subject.data.attacks) < 2 and left.controls is None
    if alone and settings.known is None and not settings.draws:
        raise UsageError(
            f"{subject.run.folder}: nothing can be said without controls, another attack on the "
            "model, --known or --set draws; give one of them"
        )


def _everything(
    subject: Subject,
    left: Left,
    known: Bools | None,
    settings: LatentSettings,
    progress: Progress,
) -> Population:
    total = sum(map(len, left.parts))
    if known is not None:
        known = np.append(known, np.zeros(total - len(known), dtype=bool))
    if settings.reference is None:
        before = nll_before(subject, left, None, lambda done: None)
    else:
        with progress.stage("latent: reference", total) as advance:
            before = nll_before(subject, left, settings.reference, advance)
    with progress.stage("latent: scores", total) as advance:
        return gather(subject, left, known, before, settings.min_k, advance)


def _trial(
    subject: Subject,
    left: Left,
    everything: Population,
    settings: LatentSettings,
    progress: Progress,
) -> Trial | None:
    if not settings.draws:
        return None
    noise = _noise(settings)
    return run_trial(subject, left, everything, noise, settings.windows, progress)


def _noise(settings: LatentSettings) -> Noise:
    return Noise(settings.strength, settings.draws, settings.seed)


def _results(
    subject: Subject,
    left: Left,
    everything: Population,
    trial: Trial | None,
    settings: LatentSettings,
) -> Results:
    resamples = subject.resamples(settings.seed)
    questions = [HIDDEN] if len(subject.data.attacks) > 1 else []
    questions += [KNOWN] if everything.known is not None else []
    questions += [AMONG_CONTROLS] if left.controls is not None else []
    drawn = None if trial is None else trial.drawn
    disclosure = subject.disclosure
    few = {one.name: one for one in questions if too_few(everything, one, disclosure)}
    answers = [
        answer(question, everything, drawn, settings.top, resamples, disclosure)
        for question in questions
        if question.name not in few
    ]
    controls = subject.controls
    return Results(
        left=len(left.data),
        controls=0 if left.controls is None else len(left.controls),
        controls_extracted=0 if controls is None else int(controls.extracted.sum()),
        asked=len(subject.data.attacks) > 1,
        answers=answers,
        unanswered={name: (one, positives(everything, one)) for name, one in few.items()},
        beyond=_beyond(everything, drawn, resamples, disclosure),
        recovered={} if trial is None else recovered(trial, resamples, disclosure),
        noise=None if trial is None else _noise(settings),
    )


def _beyond(
    everything: Population, drawn: Population | None, resamples: Resamples, disclosure: Disclosure
) -> list[Beyond]:
    """Of every score, those of perturbed weights by what was drawn."""
    control, clusters = everything.control, everything.clusters
    sides = {"not extracted": clusters[~control], "controls": clusters[control]}
    if not control.any() or not disclosure.admits_all(sides):
        return []
    known_from = dict.fromkeys(everything.scores, everything)
    if drawn is not None and all(
        disclosure.covers(drawn.clusters[rows]) for rows in (drawn.control, ~drawn.control)
    ):
        known_from |= dict.fromkeys(SHAKEN, drawn)
    return [
        beyond(population, name, allowed, resamples)
        for name, population in known_from.items()
        for allowed in ALLOWED
    ]


def _groups(subject: Subject, left: Left, everything: Population) -> dict[str, Group]:
    """The windows whose NLLs are set side by side."""
    nll, clusters = -everything.scores[NLL], everything.clusters
    hidden, control = everything.hidden & ~everything.control, everything.control
    extracted = subject.data.take(subject.data.extracted)
    groups = {
        EXTRACTED: Group(extracted.score("suffix_nll", "none"), extracted.clusters, "series-1"),
        "another attack extracts": Group(nll[hidden], clusters[hidden], "series-4"),
        "others": Group(nll[~hidden & ~control], clusters[~hidden & ~control], "series-2"),
        "controls": Group(nll[control], clusters[control], "series-3", ":"),
    }
    return {
        name: group
        for name, group in groups.items()
        if len(group.nll) and subject.disclosure.admits(name, group.clusters)
    }


def _diagnosis(
    subject: Subject,
    left: Left,
    everything: Population,
    results: Results,
    settings: LatentSettings,
) -> Diagnosis:
    scores = subject.config.scores
    tables, plots = [], []
    if results.beyond:
        tables.append(beyond_table(results.beyond, scores.confidence))
    if results.noise is not None:
        tables.append(recovered_table(results.recovered, results.noise))
    tables += [table_of(found, settings.top) for found in results.answers]
    if results.answers:
        # What is known comes before what another attack finds, and that before mere membership.
        by_name = {found.question.name: found for found in results.answers}
        order = (KNOWN, HIDDEN, AMONG_CONTROLS)
        best = next(by_name[one.name] for one in order if one.name in by_name)
        table, plot = curve_of(best)
        tables.append(table)
        plots.append(plot)
    groups = _groups(subject, left, everything)
    if groups:
        table, plot = spread_of(groups, subject.resamples(settings.seed))
        tables.append(table)
        plots.append(plot)
    return Diagnosis(
        name="latent",
        about=ABOUT,
        findings=findings_of(results),
        notes=notes_of(results, tuple(everything.scores), everything.dropped),
        tables=tables,
        plots=plots,
        settings=_told(settings),
    )


def _told(settings: LatentSettings) -> dict[str, str]:
    told = {
        "windows": f"{settings.windows:,} of each group under perturbed weights, all otherwise",
        "top": f"{settings.top:,}",
        "min_k": f"{settings.min_k:g}",
        "draws": f"{settings.draws:,}",
        "strength": f"{settings.strength:g}",
        "seed": str(settings.seed),
    }
    if settings.reference is not None:
        told["reference"] = settings.reference
    if settings.known is not None:
        told["known"] = str(settings.known)
    return told
