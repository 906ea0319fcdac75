"""Findings and notes of `diagnose signals`.

Knows figures, groups and counts. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memaudit.diagnose.signals.comparison import Separation
from memaudit.diagnose.signals.curves import Border, ByGroup
from memaudit.diagnose.signals.groups import Grouped, GroupName
from memaudit.diagnose.subject import Subject
from memaudit.report.wording import count
from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_CLUSTERS, LEAST_FITTED_CLUSTERS
from memaudit.score.stats import Bools, Ints
from memaudit.target.softprompt_check import architecture_of


def border_findings(border: Border, grouped: Grouped, near: int) -> list[str]:
    """Describe the entropy before the border and its fall over the border."""
    if all(estimate.value is None for estimate in border.before.means.values()):
        return ["A prefix of one token has no entropy before the border to compare with."]
    findings = [
        f"Entropy over the last tokens of the prefix, {near} at most, in nats: "
        f"{_by_group(border.before, grouped)}.",
        f"Fall of entropy over the border, in nats: {_by_group(border.fall, grouped)}.",
    ]
    compared = [estimate for _, estimate in _reliable(border.fall, grouped)]
    if compared and all((estimate.low or 0) <= 0 <= (estimate.high or 0) for estimate in compared):
        findings[1] += " Extracted windows show no larger fall than the other groups."
    return findings


def _by_group(sides: ByGroup, grouped: Grouped) -> str:
    """``extracted 0.79 (0.62 to 1.03), untouched ...; extracted minus untouched ...``."""
    means = ", ".join(f"{group} {estimate}" for group, estimate in sides.means.items())
    differences = [f"minus {group} {estimate}" for group, estimate in _reliable(sides, grouped)]
    return f"{means}; extracted {', '.join(differences)}" if differences else means


def _reliable(sides: ByGroup, grouped: Grouped) -> list[tuple[GroupName, Estimate]]:
    """Return the differences from untouched windows and controls that have enough clusters."""
    if _clusters(grouped, "extracted") < LEAST_CLUSTERS:
        return []
    return [
        (group, estimate)
        for group, estimate in sides.contrast.items()
        if group in ("untouched", "controls")
        and estimate.value is not None
        and _clusters(grouped, group) >= LEAST_CLUSTERS
    ]


def _clusters(grouped: Grouped, group: GroupName) -> int:
    return len(np.unique(grouped.clusters[grouped.of(group)]))


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


def too_few_finding(labels: Bools, clusters: Ints, wording: str) -> str:
    """Explain why no predictor was fitted."""
    hit, missed = (len(np.unique(clusters[kind])) for kind in (labels, ~labels))
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


def diagnosis_notes(
    subject: Subject, grouped: Grouped, *, fitted: bool, has_states: bool
) -> list[str]:
    """List the limits of the figures."""
    notes = [
        "A window counts as extracted because the model predicts its suffix well. High certainty "
        "after the border therefore defines these windows and does not explain them; figures "
        "before the border are free of this selection.",
        "Each token is predicted from the true text before it. For extracted windows, decoding "
        "gives the same text; for other windows it departs from it, and entropies may differ.",
        "Intervals resample whole near-duplicate clusters. They are not corrected for the number "
        "of signals in a table.",
    ]
    if fitted:
        notes += [
            "The intervals of triage do not refit the predictors, so they leave out the variation "
            "from the windows fitted on.",
            "A predictor predicts what this run extracted, not what was trained on. For another "
            "corpus, fit it on a scanned random sample of that corpus.",
        ]
    if subject.controls is None:
        notes.append(
            "The run has no controls, so nothing here separates memory from predictable text."
        )
    if not has_states:
        notes.append(
            f"{architecture_of(subject.checkpoint)} shows no state at its output head, so signals "
            "of states are left out."
        )
    few = [
        f"{group} {_clusters(grouped, group)}"
        for group in grouped.present
        if _clusters(grouped, group) < LEAST_CLUSTERS
    ]
    if few:
        notes.append(
            f"Groups in fewer than {LEAST_CLUSTERS} clusters ({', '.join(few)}) are weak evidence, "
            "and their intervals are too narrow."
        )
    return notes
