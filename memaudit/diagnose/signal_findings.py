"""What came out of `signals`, in sentences, and what its reader has to know.

Knows figures, groups and counts. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memaudit.diagnose.signal_comparison import Apart, distance
from memaudit.diagnose.signal_curves import Border
from memaudit.diagnose.signal_groups import Look
from memaudit.diagnose.signal_words import number_said
from memaudit.diagnose.subject import Subject
from memaudit.diagnose.triage import FEWEST_CLUSTERS
from memaudit.report.wording import count
from memaudit.score.stats import Bools, Ints

FEW = 10
"""Clusters below which a bootstrap over them is too narrow to be relied on."""


def border_findings(border: Border, look: Look) -> list[str]:
    """What entropy does over the border."""
    if not border.falls or all(one.value is None for one in border.falls.values()):
        return ["A prefix of one token has no entropy before the border to compare with."]
    said = [
        f"{group} windows {number_said(one)}"
        for group, one in border.falls.items()
        if group != "controls"
    ]
    if "controls" in border.falls:
        said.append(f"controls {number_said(border.falls['controls'])}")
    found = [f"Entropy falls over the border by (nats): {', '.join(said)}."]
    compared = [
        f"{number_said(one)} more than that of {_named(group)}"
        for group, one in border.contrast.items()
        if one.value is not None and group in ("untouched", "controls")
    ]
    clusters = len(np.unique(look.clusters[look.of("extracted")]))
    if compared and clusters >= FEW:
        found.append(f"The fall of extracted windows is {' and '.join(compared)} (nats).")
    return found


def _named(group: str) -> str:
    return group if group == "controls" else f"{group} windows"


def apart_finding(found: Sequence[Apart]) -> list[str]:
    """The best of the signals that are there before decoding."""
    before = [one for one in found if one.signal.kind != "suffix"]
    if not before:
        return []
    best = max(before, key=lambda one: distance(one.others, one.controls))
    said = [
        f"{number_said(area)} against {against}"
        for area, against in ((best.others, "not extracted windows"), (best.controls, "controls"))
        if area.value is not None
    ]
    return [
        f"Of the signals known before decoding, “{best.signal.name}” alone marks extracted "
        f"windows best: AUC {', '.join(said)} (0.5 is chance; picked from {len(before)}, so "
        "slightly too good)."
    ]


def too_few_finding(labels: Bools, clusters: Ints, says: str) -> str:
    """Why no predictor was fitted."""
    hit, missed = (len(np.unique(clusters[kind])) for kind in (labels, ~labels))
    if hit < FEWEST_CLUSTERS:
        return (
            f"Too few windows are {says} for a predictor: {count(int(labels.sum()), 'window')} "
            f"in {count(hit, 'cluster')} of {len(labels):,} windows drawn, and it takes "
            f"{FEWEST_CLUSTERS} clusters."
        )
    return (
        f"Nearly every window is {says}: the others lie in {count(missed, 'cluster')}, and a "
        f"predictor takes {FEWEST_CLUSTERS}."
    )


def diagnosis_notes(subject: Subject, look: Look, has_states: bool, architecture: str) -> list[str]:
    """What a reader has to know so as not to be misled."""
    notes = [
        "Extracted windows are chosen by how well their suffix is foretold, so that high certainty "
        "behind the border is what they are, not why; what stands before the border is free of "
        "that choice.",
        "The true text is given up to each token. For extracted windows that is what decoding "
        "gives too; for others decoding leaves the text, and its entropies may differ.",
        "Intervals draw whole near-duplicate clusters anew; predictors are not fitted anew with "
        "them, and the signals of a table are not corrected for being many.",
        "A predictor foretells what this run extracted, not what was trained on; for another "
        "corpus it has to be fitted on a scanned, evenly drawn part of that one.",
    ]
    if subject.controls is None:
        notes.append("The run has no controls: nothing here tells memory from predictable text.")
    if not has_states:
        notes.append(
            f"{architecture} shows no state at its output head: signals of states are left out."
        )
    few = [
        f"{group} {len(np.unique(look.clusters[look.of(group)]))}"
        for group in look.present
        if len(np.unique(look.clusters[look.of(group)])) < FEW
    ]
    if few:
        notes.append(
            f"Groups in fewer than {FEW} clusters ({', '.join(few)}) say little, and their "
            "intervals are too narrow."
        )
    return notes
