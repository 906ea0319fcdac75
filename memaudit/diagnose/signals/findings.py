"""What came out of `signals`, in sentences, and what its reader has to know.

Knows figures, groups and counts. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memaudit.diagnose.signals.comparison import Apart, distance
from memaudit.diagnose.signals.curves import Border, Sides
from memaudit.diagnose.signals.groups import GroupName, Look
from memaudit.diagnose.subject import Subject
from memaudit.report.wording import count
from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_CLUSTERS, LEAST_FITTED_CLUSTERS
from memaudit.score.stats import Bools, Ints
from memaudit.target.softprompt_check import architecture_of


def border_findings(border: Border, look: Look, near: int) -> list[str]:
    """How sure the model is before the border, and what changes over it."""
    if all(one.value is None for one in border.before.means.values()):
        return ["A prefix of one token has no entropy before the border to compare with."]
    found = [
        f"Entropy over the last tokens of the prefix, {near} at most, in nats: "
        f"{_by_group(border.before, look)}.",
        f"Over the border entropy falls by, in nats: {_by_group(border.fall, look)}.",
    ]
    compared = [one for _, one in _relied_on(border.fall, look)]
    if compared and all((one.low or 0) <= 0 <= (one.high or 0) for one in compared):
        found[1] += " No fall that is the extracted windows' own is seen."
    return found


def _by_group(sides: Sides, look: Look) -> str:
    """``extracted 0.79 (0.62 to 1.03), untouched ...; extracted minus untouched ...``."""
    said = ", ".join(f"{group} {one}" for group, one in sides.means.items())
    apart = [f"minus {group} {one}" for group, one in _relied_on(sides, look)]
    return f"{said}; extracted {', '.join(apart)}" if apart else said


def _relied_on(sides: Sides, look: Look) -> list[tuple[GroupName, Estimate]]:
    """The differences that say something: to untouched windows and controls, of enough clusters."""
    if _clusters(look, "extracted") < LEAST_CLUSTERS:
        return []
    return [
        (group, one)
        for group, one in sides.contrast.items()
        if group in ("untouched", "controls")
        and one.value is not None
        and _clusters(look, group) >= LEAST_CLUSTERS
    ]


def _clusters(look: Look, group: GroupName) -> int:
    return len(np.unique(look.clusters[look.of(group)]))


def apart_finding(found: Sequence[Apart]) -> list[str]:
    """The best of the signals that are there before decoding."""
    before = [one for one in found if one.signal.kind != "suffix"]
    if not before:
        return []
    if all(area.low is None for one in before for area in (one.others, one.controls)):
        return [
            "Which signal known before decoding marks extracted windows cannot be told: they, or "
            f"those to compare them with, lie in fewer than {LEAST_CLUSTERS} clusters."
        ]
    best = max(before, key=lambda one: distance(one.others, one.controls))
    said = [
        f"{area} against {against}"
        for area, against in ((best.others, "not extracted windows"), (best.controls, "controls"))
        if area.low is not None
    ]
    return [
        f"Of the signals known before decoding, “{best.signal.name}” alone marks extracted "
        f"windows best: AUC {', '.join(said)} (0.5 is chance; picked from {len(before)}, so "
        "slightly too good)."
    ]


def too_few_finding(labels: Bools, clusters: Ints, says: str) -> str:
    """Why no predictor was fitted."""
    hit, missed = (len(np.unique(clusters[kind])) for kind in (labels, ~labels))
    if hit < LEAST_FITTED_CLUSTERS:
        return (
            f"Too few windows are {says} for a predictor: {count(int(labels.sum()), 'window')} "
            f"in {count(hit, 'cluster')} of {len(labels):,} windows drawn, and it takes "
            f"{LEAST_FITTED_CLUSTERS} clusters."
        )
    return (
        f"Nearly every window is {says}: the others lie in {count(missed, 'cluster')}, and a "
        f"predictor takes {LEAST_FITTED_CLUSTERS}."
    )


def diagnosis_notes(subject: Subject, look: Look, *, fitted: bool, has_states: bool) -> list[str]:
    """What a reader has to know so as not to be misled."""
    notes = [
        "Extracted windows are chosen by how well their suffix is foretold, so that high certainty "
        "behind the border is what they are, not why; what stands before the border is free of "
        "that choice.",
        "The true text is given up to each token. For extracted windows that is what decoding "
        "gives too; for others decoding leaves the text, and its entropies may differ.",
        "Intervals draw whole near-duplicate clusters anew, and the signals of a table are not "
        "corrected for being many.",
    ]
    if fitted:
        notes += [
            "Predictors are not fitted anew for the intervals of triage, which say nothing of how "
            "much another sample to fit on would change.",
            "A predictor foretells what this run extracted, not what was trained on; for another "
            "corpus it has to be fitted on a scanned, evenly drawn part of that one.",
        ]
    if subject.controls is None:
        notes.append("The run has no controls: nothing here tells memory from predictable text.")
    if not has_states:
        notes.append(
            f"{architecture_of(subject.checkpoint)} shows no state at its output head: signals of "
            "states are left out."
        )
    few = [
        f"{group} {_clusters(look, group)}"
        for group in look.present
        if _clusters(look, group) < LEAST_CLUSTERS
    ]
    if few:
        notes.append(
            f"Groups in fewer than {LEAST_CLUSTERS} clusters ({', '.join(few)}) say little, "
            "and their intervals are too narrow."
        )
    return notes
