"""`diagnose signals`: what marks extracted windows, and what foretells them before decoding.

Knows a finished run and its model. Knows nothing of formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.diagnose.disclosure import ALL_WITHHELD, STRETCH
from memaudit.diagnose.passes import Found
from memaudit.diagnose.signals.comparison import apart_table, compare_means, tell_apart
from memaudit.diagnose.signals.curves import CURVES, compare_border, draw_curve
from memaudit.diagnose.signals.features import COUNTED, PREFIX_LOG_P, Kind, Signal
from memaudit.diagnose.signals.findings import (
    apart_finding,
    border_findings,
    diagnosis_notes,
    too_few_finding,
)
from memaudit.diagnose.signals.groups import Look, choose_look
from memaudit.diagnose.signals.settings import SignalsSettings
from memaudit.diagnose.signals.triage import FOLDS, Features, can_fit
from memaudit.diagnose.signals.triage_tables import (
    calibration_table,
    cost_finding,
    needed_table,
    predictors_table,
    triage_findings,
    triage_plot,
    triage_table,
)
from memaudit.diagnose.signals.triage_verdict import ALL, LOGITS, TEXT, Population, Target, judge
from memaudit.diagnose.signals.windows import (
    Chosen,
    Known,
    read_known,
    read_look,
    suffix_signals,
)
from memaudit.diagnose.subject import Subject, draw
from memaudit.errors import UsageError
from memaudit.report.diagnosis import Diagnosis, FigureTable, Plot
from memaudit.score.resample import Resamples
from memaudit.score.stats import Floats, Ints

ABOUT = (
    "How sure the model is around the border of prefix and suffix (boundary effect: Chen et al. "
    "2024, arXiv 2405.11577), which signals of text, logits and states mark what is extracted "
    "(ROME: Li & Zhao 2024, arXiv 2403.00510), and whether it can be foretold from the prefix "
    "alone, so that only the riskiest windows of a large corpus need to be scanned."
)


@dataclass(frozen=True)
class _Section:
    """Part of the result."""

    findings: list[str]
    tables: list[FigureTable]
    plots: list[Plot]


def diagnose_signals(subject: Subject, settings: SignalsSettings, progress: Progress) -> Diagnosis:
    """Compare groups of windows, signal by signal, and judge predictors of what is extracted.

    Raises UsageError for a border of few tokens without ``--reveal``, and as the passes do.
    """
    _require_wide_border(subject, settings)
    rng = np.random.default_rng([settings.seed, 5])
    resamples = subject.resamples(settings.seed)
    look = choose_look(subject, settings.partly, settings.windows, rng)
    if not len(look):
        return Diagnosis("signals", ABOUT, [ALL_WITHHELD], [], [], [], _settings_shown(settings, 0))
    even, refused = _draw_evenly(subject, settings, rng)
    control = look.of("controls")
    chosen = Chosen(np.union1d(look.rows[~control], even), look.rows[control])
    known = read_known(subject, chosen, even, settings.border, progress)
    found = read_look(subject, look, progress)
    places = chosen.places(look.rows[~control], look.rows[control])
    signals = [one._replace(values=one.values[places]) for one in known.signals]
    signals += suffix_signals(subject, look, found, settings.border)
    with progress.stage("signals: groups and predictors", 1) as advance:
        groups = _describe(subject, settings, look, found, signals, resamples)
        triage = _Section(refused, [], [])
        if not refused:
            triage = _foretell(subject, chosen, known, even, resamples, rng)
        advance(1)
    return Diagnosis(
        "signals",
        ABOUT,
        [*triage.findings, *groups.findings],
        diagnosis_notes(
            subject, look, fitted=bool(triage.tables), has_states=known.states is not None
        ),
        [*triage.tables, *groups.tables],
        [*triage.plots, *groups.plots],
        _settings_shown(settings, len(even)),
    )


def _require_wide_border(subject: Subject, settings: SignalsSettings) -> None:
    """Refuse a border so narrow that several tell tokens one by one."""
    if settings.border < STRETCH and not subject.disclosure.reveal:
        raise UsageError(
            f"--set border={settings.border}: figures of fewer than {STRETCH} tokens can give "
            "text away; use more, or --reveal"
        )


class _Drawn(NamedTuple):
    """Windows drawn evenly from the data."""

    rows: Ints
    refused: list[str]
    """Why no predictor is fitted on them, if none is."""


def _draw_evenly(subject: Subject, settings: SignalsSettings, rng: np.random.Generator) -> _Drawn:
    """Those of the predictor; fewer, to compare states with, where none can be fitted."""
    every = np.ones(len(subject.data), dtype=bool)
    rows = draw(every, settings.predictor_windows, rng)
    clusters, targets = subject.data.clusters[rows], _targets(subject, rows)
    if subject.prefix_tokens > 1 and any(can_fit(one.labels, clusters) for one in targets):
        return _Drawn(rows, [])
    refused = [too_few_finding(one.labels, clusters, one.says) for one in targets]
    if subject.prefix_tokens == 1:
        refused = ["A prefix of one token is too short for a predictor."]
    return _Drawn(draw(every, min(settings.windows, settings.predictor_windows), rng), refused)


def _targets(subject: Subject, even: Ints) -> list[Target]:
    """What ``none`` extracts and, where another attack finds more, what any attack does."""
    extracted, hidden = subject.data.extracted, subject.data.hidden
    found = [Target("none", "extracted by the plain prefix", extracted[even])]
    if hidden.any():
        found.append(Target("any", "extracted by any attack", (extracted | hidden)[even]))
    return found


def _describe(
    subject: Subject,
    settings: SignalsSettings,
    look: Look,
    found: Found,
    signals: list[Signal],
    resamples: Resamples,
) -> _Section:
    """The groups beside one another."""
    length = subject.prefix_tokens
    border = compare_border(look, found, length, settings.border, resamples)
    curves = [
        draw_curve(curve, look, found, length, resamples, reveal=subject.disclosure.reveal)
        for curve in CURVES
    ]
    tables = [border.table, *(table for table, _ in curves)]
    tables.append(compare_means(look, signals, resamples))
    apart = tell_apart(look, signals, resamples)
    if apart:
        tables.append(apart_table(apart))
    findings = [*border_findings(border, look, settings.border), *apart_finding(apart)]
    return _Section(findings, tables, [plot for _, plot in curves])


def _foretell(
    subject: Subject,
    chosen: Chosen,
    known: Known,
    even: Ints,
    resamples: Resamples,
    rng: np.random.Generator,
) -> _Section:
    """Predictors of what is extracted, and what they save."""
    clusters = subject.data.clusters[even]
    windows = _population(subject, chosen, known, even)
    verdicts, findings = [], []
    for target in _targets(subject, even):
        verdict = judge(target, windows, resamples, rng)
        if verdict is None:
            findings.append(too_few_finding(target.labels, clusters, target.says))
        else:
            verdicts.append(verdict)
            findings += triage_findings(verdict)
    findings.append(cost_finding(verdicts[0], windows))
    tables = [triage_table(verdict, windows, resamples) for verdict in verdicts]
    tables += [needed_table(verdicts), predictors_table(verdicts)]
    tables.append(calibration_table(verdicts, windows, resamples))
    return _Section(findings, tables, [triage_plot(verdict) for verdict in verdicts])


_FAMILIES: dict[str, tuple[Kind, ...]] = {
    TEXT: ("text",),
    LOGITS: ("text", "logits"),
    ALL: ("text", "logits", "state"),
}


def _population(subject: Subject, chosen: Chosen, known: Known, even: Ints) -> Population:
    """The windows drawn evenly and the controls, as predictors are given them."""
    rows = np.searchsorted(chosen.data, even)
    control = len(chosen.data) + np.arange(len(chosen.controls))
    (alone,) = (one.values[rows] for one in known.signals if one.name == PREFIX_LOG_P)
    controls, scan = subject.controls, _scan_cost(subject, even)
    return Population(
        features={name: _features(known, name, rows) for name in _FAMILIES},
        controls={name: _features(known, name, control) for name in _FAMILIES},
        alone=alone,
        clusters=subject.data.clusters[even],
        control_clusters=np.empty(0, dtype=np.int64)
        if controls is None
        else controls.clusters[chosen.controls],
        prefix_cost=_start(subject) + subject.prefix_tokens,
        scan_cost=scan,
    )


def _features(known: Known, family: str, rows: Ints) -> Features:
    scalars = [
        np.log1p(one.values[rows]) if one.name in COUNTED else one.values[rows]
        for one in known.signals
        if one.kind in _FAMILIES[family]
    ]
    states = known.states[rows] if family == ALL and known.states is not None else None
    return Features(np.stack(scalars, axis=1), states)


def _start(subject: Subject) -> int:
    return int(subject.checkpoint.bos_id is not None)


def _scan_cost(subject: Subject, rows: Ints) -> Floats:
    """Tokens that scanning each window by ``none`` takes (rows,).

    One pass over the window without its last token; then what is decoded behind the first
    mismatch, whose own token that pass has told already.
    """
    verified = _start(subject) + subject.prefix_tokens + subject.suffix_tokens - 1
    matched = subject.data.score("matched", "none")[rows]
    return verified + np.maximum(subject.suffix_tokens - matched - 1, 0)


def _settings_shown(settings: SignalsSettings, drawn: int) -> dict[str, str]:
    """What decided the figures."""
    return {
        "windows": f"{settings.windows:,} of each group at most",
        "border": f"{settings.border} tokens on either side",
        "partly": f"{settings.partly:g} of the suffix or more",
        "predictor_windows": f"{settings.predictor_windows:,} at most, {drawn:,} drawn",
        "predictor": f"logistic regression, {FOLDS} folds with clusters kept apart",
        "seed": str(settings.seed),
    }
