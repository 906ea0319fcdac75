"""`diagnose signals`: signals of extracted windows, and predictors of extraction from the prefix.

Knows a finished run and its model. Knows nothing of formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.diagnose.disclosure import ALL_WITHHELD, STRETCH
from memaudit.diagnose.passes import Found
from memaudit.diagnose.signals.comparison import compare_means, separate, separation_table
from memaudit.diagnose.signals.curves import CURVES, compare_border, plot_curve
from memaudit.diagnose.signals.features import COUNTED, PREFIX_LOG_P, Kind, Signal
from memaudit.diagnose.signals.findings import (
    border_findings,
    diagnosis_notes,
    separation_finding,
    too_few_finding,
)
from memaudit.diagnose.signals.groups import Grouped, choose_groups
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
    PrefixSignals,
    read_grouped,
    read_prefix_signals,
    suffix_signals,
)
from memaudit.diagnose.subject import Subject, draw
from memaudit.errors import UsageError
from memaudit.report.diagnosis import Diagnosis, FigureTable, Plot
from memaudit.score.resample import Resamples
from memaudit.score.stats import Floats, Ints

ABOUT = (
    "How certain is the model around the border of prefix and suffix (boundary effect: Chen et "
    "al. 2024, arXiv 2405.11577)? Which signals of text, logits and states mark extracted windows "
    "(ROME: Li & Zhao 2024, arXiv 2403.00510)? Can extraction be predicted from the prefix alone, "
    "so that only the riskiest windows of a large corpus need a scan?"
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
    grouped = choose_groups(subject, settings.partly, settings.windows, rng)
    if not len(grouped):
        return Diagnosis(
            "signals", ABOUT, [ALL_WITHHELD], [], [], [], _describe_settings(settings, 0)
        )
    even, refused = _sample_uniformly(subject, settings, rng)
    control = grouped.of("controls")
    chosen = Chosen(np.union1d(grouped.rows[~control], even), grouped.rows[control])
    prefixes = read_prefix_signals(subject, chosen, even, settings.border, progress)
    figures = read_grouped(subject, grouped, progress)
    places = chosen.places(grouped.rows[~control], grouped.rows[control])
    signals = [signal._replace(values=signal.values[places]) for signal in prefixes.signals]
    signals += suffix_signals(subject, grouped, figures, settings.border)
    with progress.stage("signals: groups and predictors", 1) as advance:
        groups = _describe(subject, settings, grouped, figures, signals, resamples)
        triage = _Section(refused, [], [])
        if not refused:
            triage = _predict(subject, chosen, prefixes, even, resamples, rng)
        advance(1)
    return Diagnosis(
        "signals",
        ABOUT,
        [*triage.findings, *groups.findings],
        diagnosis_notes(
            subject, grouped, fitted=bool(triage.tables), has_states=prefixes.states is not None
        ),
        [*triage.tables, *groups.tables],
        [*triage.plots, *groups.plots],
        _describe_settings(settings, len(even)),
    )


def _require_wide_border(subject: Subject, settings: SignalsSettings) -> None:
    """Refuse a border so narrow that several runs would reveal single tokens."""
    if settings.border < STRETCH and not subject.disclosure.reveal:
        raise UsageError(
            f"--set border={settings.border}: figures of fewer than {STRETCH} tokens can reveal "
            "text; use more, or --reveal"
        )


class _Sampled(NamedTuple):
    """Windows sampled uniformly from the data."""

    rows: Ints
    refused: list[str]
    """Reasons why no predictor is fitted on them; empty if it is."""


def _sample_uniformly(
    subject: Subject, settings: SignalsSettings, rng: np.random.Generator
) -> _Sampled:
    """Sample windows for the predictor; fewer, to compare states with, if it cannot be fitted."""
    every = np.ones(len(subject.data), dtype=bool)
    rows = draw(every, settings.predictor_windows, rng)
    clusters, targets = subject.data.clusters[rows], _targets(subject, rows)
    if subject.prefix_tokens > 1 and any(can_fit(target.labels, clusters) for target in targets):
        return _Sampled(rows, [])
    refused = [too_few_finding(target.labels, clusters, target.wording) for target in targets]
    if subject.prefix_tokens == 1:
        refused = ["A prefix of one token is too short for a predictor."]
    return _Sampled(draw(every, min(settings.windows, settings.predictor_windows), rng), refused)


def _targets(subject: Subject, even: Ints) -> list[Target]:
    """Return extraction by ``none`` and, if another attack extracts more, by any attack."""
    extracted, hidden = subject.data.extracted, subject.data.hidden
    targets = [Target("none", "extracted by the plain prefix", extracted[even])]
    if hidden.any():
        targets.append(Target("any", "extracted by any attack", (extracted | hidden)[even]))
    return targets


def _describe(
    subject: Subject,
    settings: SignalsSettings,
    grouped: Grouped,
    figures: Found,
    signals: list[Signal],
    resamples: Resamples,
) -> _Section:
    """Compare the groups."""
    length = subject.prefix_tokens
    border = compare_border(grouped, figures, length, settings.border, resamples)
    curves = [
        plot_curve(curve, grouped, figures, length, resamples, reveal=subject.disclosure.reveal)
        for curve in CURVES
    ]
    tables = [border.table, *(table for table, _ in curves)]
    tables.append(compare_means(grouped, signals, resamples))
    separations = separate(grouped, signals, resamples)
    if separations:
        tables.append(separation_table(separations))
    findings = [
        *border_findings(border, grouped, settings.border),
        *separation_finding(separations),
    ]
    return _Section(findings, tables, [plot for _, plot in curves])


def _predict(
    subject: Subject,
    chosen: Chosen,
    prefixes: PrefixSignals,
    even: Ints,
    resamples: Resamples,
    rng: np.random.Generator,
) -> _Section:
    """Judge predictors of extraction, and the tokens they save."""
    clusters = subject.data.clusters[even]
    windows = _population(subject, chosen, prefixes, even)
    verdicts, findings = [], []
    for target in _targets(subject, even):
        verdict = judge(target, windows, resamples, rng)
        if verdict is None:
            findings.append(too_few_finding(target.labels, clusters, target.wording))
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


def _population(
    subject: Subject, chosen: Chosen, prefixes: PrefixSignals, even: Ints
) -> Population:
    """Return the sampled windows and the controls as input of predictors."""
    rows = np.searchsorted(chosen.data, even)
    control = len(chosen.data) + np.arange(len(chosen.controls))
    (alone,) = (signal.values[rows] for signal in prefixes.signals if signal.name == PREFIX_LOG_P)
    controls, scan = subject.controls, _scan_cost(subject, even)
    return Population(
        features={name: _features(prefixes, name, rows) for name in _FAMILIES},
        controls={name: _features(prefixes, name, control) for name in _FAMILIES},
        alone=alone,
        clusters=subject.data.clusters[even],
        control_clusters=np.empty(0, dtype=np.int64)
        if controls is None
        else controls.clusters[chosen.controls],
        prefix_cost=_start(subject) + subject.prefix_tokens,
        scan_cost=scan,
    )


def _features(prefixes: PrefixSignals, family: str, rows: Ints) -> Features:
    scalars = [
        np.log1p(signal.values[rows]) if signal.name in COUNTED else signal.values[rows]
        for signal in prefixes.signals
        if signal.kind in _FAMILIES[family]
    ]
    states = prefixes.states[rows] if family == ALL and prefixes.states is not None else None
    return Features(np.stack(scalars, axis=1), states)


def _start(subject: Subject) -> int:
    return int(subject.checkpoint.bos_id is not None)


def _scan_cost(subject: Subject, rows: Ints) -> Floats:
    """Return the tokens that scanning each window by ``none`` takes (rows,).

    One pass over the window without its last token, then the tokens decoded after the first
    mismatch; the pass already gives the mismatched token.
    """
    verified = _start(subject) + subject.prefix_tokens + subject.suffix_tokens - 1
    matched = subject.data.score("matched", "none")[rows]
    return verified + np.maximum(subject.suffix_tokens - matched - 1, 0)


def _describe_settings(settings: SignalsSettings, sampled: int) -> dict[str, str]:
    """Describe the settings that decide the figures."""
    return {
        "windows": f"{settings.windows:,} of each group at most",
        "border": f"{settings.border} tokens on either side",
        "partly": f"{settings.partly:g} of the suffix or more",
        "predictor_windows": f"{settings.predictor_windows:,} at most, {sampled:,} sampled",
        "predictor": f"logistic regression, {FOLDS} folds, no cluster in two folds",
        "seed": str(settings.seed),
    }
