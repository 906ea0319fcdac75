"""Findings and notes of the ablations. States only what the intervals support."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memaudit.diagnose.disclosure import ALL_WITHHELD
from memaudit.diagnose.layers.costs import Costs
from memaudit.diagnose.layers.measure import Ablation, Measurements
from memaudit.diagnose.section import count_clusters
from memaudit.score.estimate import Estimate, percent
from memaudit.score.resample import LEAST_CLUSTERS, Replicates
from memaudit.score.stats import Bools

_NO_SKILL = "Too few windows to measure skill; see the notes."


def conclude(ablated: Measurements, costs: Costs, skill: str) -> list[str]:
    """Return the findings, the most important first."""
    if not len(ablated.controls):
        skill = "windows that are not extracted"
    extracted, clusters = len(ablated.extracted), count_clusters(ablated.extracted.clusters)
    if ablated.withheld and not len(ablated.skill):
        return [ALL_WITHHELD if "extracted" in ablated.withheld else _NO_SKILL]
    if not len(ablated.skill):
        return ["All windows are extracted and there are no controls, so skill cannot be measured."]
    parts = [_harm(ablated, costs, kind, skill) for kind in ("attention", "feed-forward")]
    harms = [harm for harm in parts if harm]
    if clusters < LEAST_CLUSTERS:
        few = f"{extracted} windows in {clusters} near-duplicate clusters"
        if "extracted" in ablated.withheld:
            few = "see the notes"
        return [f"Too few extracted windows to locate memory: {few}.", *harms]
    return [
        *_place(ablated, costs, skill),
        *_remaining(ablated, costs),
        _noise_finding(ablated, costs, skill),
        *harms,
    ]


def _place(ablated: Measurements, costs: Costs, skill: str) -> list[str]:
    """Return findings on parts that cost extracted windows more or less than noise.

    The noise has the same cost in skill; the intervals hold for all parts at once.
    """
    is_part = np.array([ablation.block is not None for ablation in ablated.ablations])
    excess = costs.excess.simultaneous(is_part)
    order = sorted(
        (at for at in np.flatnonzero(is_part).tolist() if excess[at].low is not None),
        key=lambda at: -costs.excess.values[at],
    )
    lost = costs.excess_lost.values  # the opposite sign rejects a claim, NaN does not
    more = [at for at in order if excess[at].above(0) and not lost[at] < 0]
    less = [at for at in order if excess[at].below(0) and not lost[at] > 0][::-1]
    beyond_each = costs.beyond_not_extracted.simultaneous(is_part)
    findings = []
    if more and _stands_out(costs.excess, more[0], is_part):
        best = more.pop(0)
        findings.append(
            f"{_part(ablated.ablations[best]).capitalize()} costs extracted windows most beyond "
            f"noise with the same cost to {skill}: without it, their suffix NLL rises by "
            f"{_nats(costs.memory, best)}, and by {excess[best]:+.2f nats/token} more "
            f"than under noise that costs {skill} as much ({_nats(costs.skill, best)}). "
            + _against_not_extracted(ablated, costs, beyond_each, [best])
        )
        if more:
            findings.append(
                f"Other parts beyond such noise: {_list(ablated, excess, more)}. "
                + _against_not_extracted(ablated, costs, beyond_each, more)
            )
    elif more:
        findings.append(
            f"Parts that cost extracted windows more than noise that costs {skill} as much: "
            f"{_list(ablated, excess, more)}. No single part stands out from the "
            "rest. " + _against_not_extracted(ablated, costs, beyond_each, more)
        )
    else:
        findings.append(
            f"No part costs extracted windows clearly more than noise that costs {skill} as much, "
            "in NLL and, if known, in windows lost. There is no evidence that memory sits in one "
            "block."
        )
    if less:
        findings.append(
            "Parts that cost extracted windows less than noise in every block that costs "
            f"{skill} as much: {_list(ablated, excess, less)}."
        )
    return findings


def _against_not_extracted(
    ablated: Measurements, costs: Costs, beyond_each: Sequence[Estimate], places: Sequence[int]
) -> str:
    """Return sentences that compare the cost with that of windows that are not extracted.

    The model was trained on them, too, if the data are its training data.
    """
    if not len(ablated.not_extracted):
        return (
            "The cost to data that are not extracted is not known: there are no figures of such "
            "windows."
        )
    beyond = [at for at in places if beyond_each[at].above(0)]
    rest = [at for at in places if at not in beyond]
    sentences = []
    if beyond:
        sentences.append(
            "The cost is also higher than for windows that are not extracted, which indicates "
            f"memory: {_list(ablated, beyond_each, beyond)}."
        )
    if rest:
        sentences.append(
            "The cost is not clearly higher than for windows that are not extracted: "
            f"{_list(ablated, beyond_each, rest)}; this may be an effect of training on a "
            "text, extracted or not."
        )
    return " ".join(sentences)


def _stands_out(excess: Replicates, best: int, is_part: Bools) -> bool:
    """Return True if one part's excess is above every other part's.

    The intervals of the differences hold for all parts at once.
    """
    rivals = is_part & np.isfinite(excess.values) & (np.arange(len(is_part)) != best)
    differences = excess.take(np.array([best])).minus(excess).simultaneous(rivals)
    return all(differences[at].above(0) for at in np.flatnonzero(rivals))


def _list(ablated: Measurements, estimates: Sequence[Estimate], places: Sequence[int]) -> str:
    parts = [
        f"{_part(ablated.ablations[at])} ({estimates[at]:+.2f nats/token})" for at in places[:4]
    ]
    if len(places) > len(parts):
        rest = len(places) - len(parts)
        parts.append(f"{rest} {'other' if rest == 1 else 'others'}")
    return ", ".join(parts)


def _remaining(ablated: Measurements, costs: Costs) -> list[str]:
    findings = []
    count = len(ablated.extracted)
    for kind, condition in (
        ("attention", "With attention to itself only"),
        ("feed-forward", "Without its feed-forward part"),
    ):
        places = _places(ablated, kind)
        if not places:
            continue
        worst = max(places, key=costs.lost.values.__getitem__)
        best = min(places, key=costs.lost.values.__getitem__)
        if costs.lost.values[best] == costs.lost.values[worst]:
            findings.append(
                f"{condition}, every block leaves {_left(costs, best)} of {count} extracted "
                "windows."
            )
            continue
        findings.append(
            f"{condition}, block {_number(ablated.ablations[best])} leaves the most, "
            f"{_left(costs, best)} of {count} extracted windows, and block "
            f"{_number(ablated.ablations[worst])} the fewest, {_left(costs, worst)}."
        )
    return findings


def _left(costs: Costs, at: int) -> str:
    share = costs.still_extracted[at]
    if share.value == 0:
        return f"none ({share.parts('share')[1]})"
    if share.value == 1 and share.low is not None:
        return f"all (at least {percent(share.low)})"
    return f"{share:share}"


def _noise_finding(ablated: Measurements, costs: Costs, skill: str) -> str:
    """Return a finding on noise, a caution against reading a loss as a place of memory."""
    noise = _places(ablated, "noise")
    half = next((at for at in noise if costs.lost.values[at] >= 0.5), noise[-1])
    stopped = f"{100 * costs.lost.values[half]:.0f} % of the extractions"
    return (
        f"Noise in every block that raises the suffix NLL of {skill} by {_nats(costs.skill, half)} "
        f"already stops {stopped}. A stop without a block is therefore no evidence by itself that "
        "memory sits there."
    )


def _harm(ablated: Measurements, costs: Costs, kind: str, skill: str) -> str | None:
    places = _places(ablated, kind)
    if not places:
        return None
    worst = max(places, key=costs.skill.values.__getitem__)
    best = min(places, key=costs.skill.values.__getitem__)
    if not costs.skill.estimates()[worst].above(0):
        return f"For {skill}, {kind} matters in no block, as far as can be measured."
    return (
        f"For {skill}, {kind} matters most in block {_number(ablated.ablations[worst])} (NLL "
        f"{_nats(costs.skill, worst)}) and least in block {_number(ablated.ablations[best])} "
        f"({_nats(costs.skill, best)})."
    )


def _places(ablated: Measurements, kind: str) -> list[int]:
    return [at for at, ablation in enumerate(ablated.ablations) if ablation.kind == kind]


def _nats(replicates: Replicates, at: int) -> str:
    return f"{replicates.estimates()[at]:+.3f nats/token}"


def _number(ablation: Ablation) -> int:
    return -1 if ablation.block is None else ablation.block.number


def _part(ablation: Ablation) -> str:
    return f"{ablation.kind} of block {_number(ablation)}"


def remark(ablated: Measurements, confidence: float) -> list[str]:
    """Return the notes."""
    blocks = ablated.blocks
    left = ", ".join(str(block.number) for block in blocks if block.attention is None)
    fixed = ", ".join(str(block.number) for block in blocks if not block.has_feed_forward)
    notes = [
        "Blocks are numbered from 0, in the order of a pass; NLL is the mean of -log p of the "
        "suffix tokens, each after the true ones.",
        f"Intervals are {confidence:.0%} intervals over near-duplicate clusters; those of findings "
        "on the place of memory hold for all parts at once.",
        "Extracted windows have more to lose than windows with a high NLL, so losses are compared "
        "with those under noise in every block, at the same cost in skill.",
        "The noise is one random sample and one of many kinds of harm. It is added after the last "
        "block, too, where it affects sharp predictions directly, so few parts cost extracted "
        "windows more. Other comparisons may differ: the columns of differences subtract rises of "
        "NLL, and a part that harms all text harms sharply predicted text most.",
        "Extracted windows are chosen for being predicted without an error, so any harm shows "
        "there first. A small loss is no sign of memory.",
    ]
    if not ablated.has_controls:
        notes.append(
            "The run had no controls, so windows that are not extracted measure skill. The model "
            "was trained on them if the data are its training data."
        )
    if left:
        notes.append(
            f"Attention cannot be limited to its own position in blocks {left}: they have none, or "
            "none with a mask. Only their feed-forward parts are measured."
        )
    if fixed:
        notes.append(f"Blocks {fixed} have no feed-forward part that can be removed exactly.")
    if ablated.unstable:
        notes.append(
            f"{ablated.unstable} windows that the run counts as extracted are not extracted here, "
            "where another batch decided a near-tie. They are left out."
        )
    return notes
