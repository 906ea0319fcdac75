"""Signals by group, how well each alone marks extracted windows, and what this shows.

Knows signals and groups as arrays. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from memaudit.diagnose.disclosure import ALL_WITHHELD, Disclosure
from memaudit.diagnose.probes import FOLDS
from memaudit.diagnose.section import Section, count_clusters, heads
from memaudit.diagnose.signals.curves import describe_border
from memaudit.diagnose.signals.features import Kind, Signal
from memaudit.diagnose.signals.measure import Grouped, Measurements
from memaudit.diagnose.signals.settings import SignalsSettings
from memaudit.diagnose.signals.triage import Target
from memaudit.diagnose.signals.triage_report import describe_triage, judge, triage_findings
from memaudit.report.diagnosis import Cell, Diagnosis, FigureTable
from memaudit.report.wording import count
from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_CLUSTERS, LEAST_FITTED_CLUSTERS, Resamples
from memaudit.score.stats import Bools, Ints

ABOUT = (
    "How certain is the model around the border of prefix and suffix (boundary effect: Chen et "
    "al. 2024, arXiv 2405.11577)? Which signals of text, logits and states mark extracted windows "
    "(ROME: Li & Zhao 2024, arXiv 2403.00510)? Can extraction be predicted from the prefix alone, "
    "so that only the riskiest windows of a large corpus need a scan?"
)
KNOWN: dict[Kind, str] = {
    "text": "text of the prefix",
    "logits": "prefix pass",
    "state": "prefix pass",
    "suffix": "suffix",
}
"""Input that a signal of each kind needs."""


def report(
    measured: Measurements | None,
    settings: SignalsSettings,
    resamples: Resamples,
    disclosure: Disclosure,
) -> Diagnosis:
    """Compare the groups, signal by signal, and judge predictors of what is extracted."""
    section = Section([ALL_WITHHELD])
    if measured is not None:
        section = Section.joined(
            [
                _triage(measured, resamples),
                _describe(measured, settings.border, resamples, reveal=disclosure.reveal),
                Section(notes=_notes(measured)),
            ]
        )
    sampled = 0 if measured is None else measured.sampled
    return section.diagnosis("signals", ABOUT, _describe_settings(settings, sampled))


def _triage(measured: Measurements, resamples: Resamples) -> Section:
    """Judge the predictors of extraction, and the tokens they save."""
    clusters, windows = measured.target_clusters, measured.triage
    if windows is None:
        if measured.prefix_tokens == 1:
            return Section(["A prefix of one token is too short for a predictor."])
        return Section([too_few_finding(target, clusters) for target in measured.targets])
    verdicts, findings = [], []
    for forecast in windows.forecasts:
        if not forecast.predictions:
            findings.append(too_few_finding(forecast.target, clusters))
            continue
        verdicts.append(judge(forecast, windows, resamples))
        findings += triage_findings(verdicts[-1])
    return Section.joined([Section(findings), describe_triage(windows, verdicts, resamples)])


def _describe(measured: Measurements, near: int, resamples: Resamples, *, reveal: bool) -> Section:
    """Compare the groups. near: tokens on either side of the border."""
    grouped, signals = measured.grouped, measured.signals
    border = describe_border(
        grouped, measured.figures, measured.prefix_tokens, near, resamples, reveal=reveal
    )
    separations = separate(grouped, signals, resamples)
    tables = [compare_means(grouped, signals, resamples)]
    if separations:
        tables.append(separation_table(separations))
    return Section.joined([border, Section(separation_finding(separations), [], tables)])


def compare_means(grouped: Grouped, signals: Sequence[Signal], resamples: Resamples) -> FigureTable:
    """Mean of each signal in each group."""
    means = grouped.means(np.stack([signal.values for signal in signals], axis=1), resamples)
    rows: list[list[Cell]] = [
        [signal.name, KNOWN[signal.kind], *(column[row] for column in means.values())]
        for row, signal in enumerate(signals)
    ]
    return FigureTable(
        "signals",
        "Signals by group",
        "Mean over the windows of each group, with an interval over clusters. Entropies, log p "
        "and rarity are in nats; rarity is -ln of a token's share among the tokens of all other "
        "prefixes in the data file.",
        [*heads("text", "signal", "known from"), *heads("number", *means)],
        rows,
    )


class Separation(NamedTuple):
    """How well one signal separates extracted windows from other windows."""

    signal: Signal
    not_extracted: Estimate
    """AUC against windows of the data that are not extracted."""
    controls: Estimate
    """AUC against controls."""

    @property
    def distance(self) -> float:
        """Distance from chance of the first known area; areas with an interval come first."""
        areas = sorted((self.not_extracted, self.controls), key=lambda area: area.low is None)
        return next((abs(area.value - 0.5) for area in areas if area.value is not None), 0.0)


def separate(grouped: Grouped, signals: Sequence[Signal], resamples: Resamples) -> list[Separation]:
    """Return the AUC of each signal alone; empty if there is nothing to compare."""
    extracted, controls = grouped.of("extracted"), grouped.of("controls")
    not_extracted = ~extracted & ~controls & grouped.fair
    if not extracted.any() or not (not_extracted | controls).any():
        return []
    return [
        Separation(
            signal,
            _auc(grouped, signal, extracted, not_extracted, resamples),
            _auc(grouped, signal, extracted, controls, resamples),
        )
        for signal in signals
    ]


def _auc(
    grouped: Grouped, signal: Signal, extracted: Bools, not_extracted: Bools, resamples: Resamples
) -> Estimate:
    both = (extracted | not_extracted) & ~np.isnan(signal.values)
    return resamples.auc(signal.values[both], extracted[both], grouped.clusters[both])


def separation_table(separations: Sequence[Separation]) -> FigureTable:
    """Table of the signals, the best first."""
    rows: list[list[Cell]] = [
        [
            separation.signal.name,
            KNOWN[separation.signal.kind],
            separation.not_extracted,
            separation.controls,
        ]
        for separation in sorted(separations, key=lambda separation: -separation.distance)
    ]
    return FigureTable(
        "telling-apart",
        "Each signal alone",
        "Area under the ROC curve of extracted windows against windows of the data that are not "
        "extracted, and against controls: 0.5 is chance; below 0.5, extracted windows have the "
        "lower values. Signals that need the suffix contain what decides extraction, so they "
        f"predict nothing. No interval below {LEAST_CLUSTERS} clusters of either kind.",
        [
            *heads("text", "signal", "known from"),
            *heads("number", "AUC, not extracted", "AUC, controls"),
        ],
        rows,
    )


def separation_finding(separations: Sequence[Separation]) -> list[str]:
    """Name the best signal that is known before decoding."""
    before = [separation for separation in separations if separation.signal.kind != "suffix"]
    if not before:
        return []
    if all(
        area.low is None
        for separation in before
        for area in (separation.not_extracted, separation.controls)
    ):
        return [
            "No signal known before decoding can be named the best: extracted windows, or the "
            f"windows to compare them with, lie in fewer than {LEAST_CLUSTERS} clusters."
        ]
    best = max(before, key=lambda separation: separation.distance)
    areas = [
        f"{area} against {against}"
        for area, against in (
            (best.not_extracted, "not extracted windows"),
            (best.controls, "controls"),
        )
        if area.low is not None
    ]
    return [
        f"Of the signals known before decoding, “{best.signal.name}” alone marks extracted "
        f"windows best: AUC {', '.join(areas)} (0.5 is chance; as the best of {len(before)}, "
        "slightly overestimated)."
    ]


def too_few_finding(target: Target, clusters: Ints) -> str:
    """Explain why no predictor was fitted."""
    labels, wording = target.labels, target.wording
    hit, missed = (count_clusters(clusters[kind]) for kind in (labels, ~labels))
    if hit < LEAST_FITTED_CLUSTERS:
        return (
            f"Too few windows are {wording} for a predictor: {count(int(labels.sum()), 'window')} "
            f"in {count(hit, 'cluster')}, of {len(labels):,} windows sampled. A predictor needs "
            f"{LEAST_FITTED_CLUSTERS} clusters."
        )
    return (
        f"Nearly every window is {wording}: the rest lie in {count(missed, 'cluster')}. "
        f"A predictor needs {LEAST_FITTED_CLUSTERS}."
    )


def _notes(measured: Measurements) -> list[str]:
    """List the limits of the figures."""
    grouped = measured.grouped
    notes = [
        "A window counts as extracted because the model predicts its suffix well. High certainty "
        "after the border therefore defines these windows and does not explain them; figures "
        "before the border are free of this selection.",
        "Each token is predicted from the true text before it. For extracted windows, decoding "
        "gives the same text; for other windows it departs from it, and entropies may differ.",
        "Intervals resample whole near-duplicate clusters. They are not corrected for the number "
        "of signals in a table.",
    ]
    if measured.too_short:
        notes.append(
            f"{count(measured.too_short, 'window')} with one prefix token took no part: nothing "
            "predicts that token, so signals of the prefix are unknown."
            if measured.prefix_tokens > 1
            else f"{count(measured.too_short, 'control')} with more than one prefix token took no "
            "part: the prefixes of the data have one token."
        )
    if measured.triage is not None:
        notes += [
            "The intervals of triage do not refit the predictors, so they leave out the variation "
            "from the windows fitted on.",
            "A predictor predicts what this run extracted, not what was trained on. For another "
            "corpus, fit it on a scanned random sample of that corpus.",
        ]
    if not measured.has_controls:
        notes.append(
            "The run has no controls, so nothing here separates memory from predictable text."
        )
    if not measured.has_states:
        notes.append(
            f"{measured.architecture} shows no state at its output head, so signals "
            "of states are left out."
        )
    few = [
        f"{group} {grouped.count_clusters(group)}"
        for group in grouped.present
        if grouped.count_clusters(group) < LEAST_CLUSTERS
    ]
    if few:
        notes.append(
            f"Groups in fewer than {LEAST_CLUSTERS} clusters ({', '.join(few)}) are weak evidence, "
            "and their intervals are too narrow."
        )
    return notes


def _describe_settings(settings: SignalsSettings, sampled: int) -> dict[str, object]:
    """Describe the settings that decide the figures."""
    return {
        "windows": f"{settings.windows:,} of each group at most",
        "border": f"{settings.border} tokens on either side",
        "partly": f"{settings.partly:g} of the suffix or more",
        "predictor_windows": f"{settings.predictor_windows:,} at most, {sampled:,} sampled",
        "predictor": f"logistic regression, {FOLDS} folds, no cluster in two folds",
        "seed": settings.seed,
    }
