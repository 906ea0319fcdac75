"""What the ablations of a model say, in sentences.

Knows their figures. Says nothing that the intervals do not bear.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memaudit.diagnose.anatomy.blocks import Block
from memaudit.diagnose.disclosure import ALL_WITHHELD
from memaudit.diagnose.layers.ablation import Ablated, Ablation
from memaudit.diagnose.layers.costs import Costs
from memaudit.score.estimate import Estimate, percent
from memaudit.score.resample import LEAST_CLUSTERS, Replicates
from memaudit.score.stats import Bools

_NO_SKILL = "Windows to measure skill by are too few for figures of them; the notes name them."


def conclude(found: Ablated, costs: Costs, skill: str) -> list[str]:
    """The findings, the most important first."""
    if not len(found.controls):
        skill = "windows that are not extracted"
    extracted, clusters = len(found.extracted), len(np.unique(found.extracted.clusters))
    if found.withheld and not len(found.skill):
        return [ALL_WITHHELD if "extracted" in found.withheld else _NO_SKILL]
    if not len(found.skill):
        return ["All windows are extracted and there are no controls: nothing to measure skill by."]
    parts = [_harm(found, costs, kind, skill) for kind in ("attention", "feed-forward")]
    harms = [one for one in parts if one]
    if clusters < LEAST_CLUSTERS:
        few = f"{extracted} windows in {clusters} near-duplicate clusters"
        if "extracted" in found.withheld:
            few = "the notes count it"
        return [
            f"What is extracted is too little to say where memory sits: {few}.",
            *harms,
        ]
    return [
        *_place(found, costs, skill),
        *_kept(found, costs),
        _brittle(found, costs, skill),
        *harms,
    ]


def _place(found: Ablated, costs: Costs, skill: str) -> list[str]:
    """Which parts cost extracted windows more or less than noise of the same cost in skill, judged
    over all of them at once.
    """
    among = np.array([one.block is not None for one in found.ablations])
    together = costs.excess.simultaneous(among)
    order = sorted(
        (at for at in np.flatnonzero(among).tolist() if together[at].low is not None),
        key=lambda at: -costs.excess.values[at],
    )
    lost = costs.excess_lost.values  # of the other sign, it takes a claim back; NaN does not
    more = [at for at in order if together[at].above(0) and not lost[at] < 0]
    less = [at for at in order if together[at].below(0) and not lost[at] > 0][::-1]
    apart = costs.beyond_others.simultaneous(among)
    said = []
    if more and _stands_out(costs.excess, more[0], among):
        best = more.pop(0)
        said.append(
            f"{_capital(found.ablations[best])} costs extracted windows most beyond noise of the "
            f"same cost to {skill}: without it their suffix NLL rises by "
            f"{_nats(costs.memory, best)}, and by {together[best]:+.2f nats/token} more "
            f"than under noise that costs {skill} as much ({_nats(costs.skill, best)}). "
            + _untaught(found, costs, apart, [best])
        )
        if more:
            said.append(
                f"Beyond such noise, but less: {_list(found, together, more)}. "
                + _untaught(found, costs, apart, more)
            )
    elif more:
        said.append(
            f"Taking away costs extracted windows more than noise that costs {skill} as much: "
            f"{_list(found, together, more)}; but no one part stands out from all "
            "others. " + _untaught(found, costs, apart, more)
        )
    else:
        said.append(
            f"No part costs extracted windows clearly more than noise that costs {skill} as much, "
            "in NLL and, where it is known, in windows lost: memory is not seen to sit in one "
            "block."
        )
    if less:
        said.append(
            "Parts that cost extracted windows less than noise in every block that costs "
            f"{skill} as much: {_list(found, together, less)}."
        )
    return said


def _untaught(
    found: Ablated, costs: Costs, apart: Sequence[Estimate], places: Sequence[int]
) -> str:
    """Whether parts cost extracted windows more than windows that are not, which were trained on
    too where the data are the training data.
    """
    if not len(found.others):
        return (
            "Whether it costs data that are not extracted as much is not known: there are no "
            "figures of such windows."
        )
    beyond = [at for at in places if apart[at].above(0)]
    rest = [at for at in places if at not in beyond]
    said = []
    if beyond:
        said.append(
            "More than windows of the data that are not extracted, too, which speaks of memory: "
            f"{_list(found, apart, beyond)}."
        )
    if rest:
        said.append(
            "Not clearly more than windows of the data that are not extracted: "
            f"{_list(found, apart, rest)}; that may be what training on a "
            "text gives, extracted or not."
        )
    return " ".join(said)


def _stands_out(excess: Replicates, best: int, among: Bools) -> bool:
    """Whether one part's excess is above that of each other, by intervals of the differences that
    hold for all of them at once.
    """
    others = among & np.isfinite(excess.values) & (np.arange(len(among)) != best)
    apart = excess.take(np.array([best])).minus(excess).simultaneous(others)
    return all(apart[at].above(0) for at in np.flatnonzero(others))


def _list(found: Ablated, together: Sequence[Estimate], places: Sequence[int]) -> str:
    shown = [f"{_part(found.ablations[at])} ({together[at]:+.2f nats/token})" for at in places[:4]]
    if len(places) > len(shown):
        rest = len(places) - len(shown)
        shown.append(f"{rest} {'other' if rest == 1 else 'others'}")
    return ", ".join(shown)


def _kept(found: Ablated, costs: Costs) -> list[str]:
    said = []
    count = len(found.extracted)
    for kind, done in (
        ("attention", "With attention to itself alone"),
        ("feed-forward", "Without its feed-forward part"),
    ):
        places = [at for at, one in enumerate(found.ablations) if one.kind == kind]
        if not places:
            continue
        worst = max(places, key=lambda at: costs.lost.values[at])
        best = min(places, key=lambda at: costs.lost.values[at])
        if costs.lost.values[best] == costs.lost.values[worst]:
            said.append(
                f"{done}, any block leaves {_left(costs, best)} of {count} extracted windows."
            )
            continue
        said.append(
            f"{done}, block {_number(found.ablations[best])} leaves most, {_left(costs, best)} of "
            f"{count} extracted windows, and block {_number(found.ablations[worst])} least, "
            f"{_left(costs, worst)}."
        )
    return said


def _left(costs: Costs, at: int) -> str:
    kept = costs.kept[at]
    if kept.value == 0:
        return f"none ({kept.parts('share')[1]})"
    if kept.value == 1 and kept.low is not None:
        return f"all (at least {percent(kept.low)})"
    return f"{kept:share}"


def _brittle(found: Ablated, costs: Costs, skill: str) -> str:
    """How much noise takes, so that a loss of extraction is not taken for a place of memory."""
    noise = [at for at, one in enumerate(found.ablations) if one.kind == "noise"]
    half = next((at for at in noise if costs.lost.values[at] >= 0.5), noise[-1])
    stopped = f"{100 * costs.lost.values[half]:.0f} % of what is extracted"
    return (
        f"Noise in every block that raises the suffix NLL of {skill} by {_nats(costs.skill, half)} "
        f"already stops {stopped}: that extraction stops without a block does not "
        "show by itself that memory sits there."
    )


def _harm(found: Ablated, costs: Costs, kind: str, skill: str) -> str | None:
    places = [at for at, one in enumerate(found.ablations) if one.kind == kind]
    if not places:
        return None
    worst = max(places, key=lambda at: costs.skill.values[at])
    best = min(places, key=lambda at: costs.skill.values[at])
    if not costs.skill.estimates()[worst].above(0):
        return f"For {skill}, {kind} of no block is seen to matter."
    return (
        f"For {skill}, {kind} matters most in block {_number(found.ablations[worst])} (NLL "
        f"{_nats(costs.skill, worst)}) and least in block {_number(found.ablations[best])} "
        f"({_nats(costs.skill, best)})."
    )


def _nats(replicates: Replicates, at: int) -> str:
    return f"{replicates.estimates()[at]:+.3f nats/token}"


def _number(one: Ablation) -> int:
    return -1 if one.block is None else one.block.number


def _part(one: Ablation) -> str:
    return f"{one.kind} of block {_number(one)}"


def _capital(one: Ablation) -> str:
    return f"{one.kind.capitalize()} of block {_number(one)}"


def remark(
    blocks: Sequence[Block], found: Ablated, has_controls: bool, confidence: float
) -> list[str]:
    """The notes."""
    left = ", ".join(str(block.number) for block in blocks if block.attention is None)
    fixed = ", ".join(str(block.number) for block in blocks if not block.has_feed_forward)
    notes = [
        "Blocks are numbered from 0, in the order of a pass; NLL is the mean of -log p of the "
        "suffix tokens, each after the true ones before it.",
        f"Intervals hold with {confidence:.0%} over near-duplicate clusters; those of the findings "
        "on where memory sits hold for all parts at once.",
        "Extracted windows have more to lose than others, whose NLL is high anyway; so losses are "
        "compared with those under noise in every block, at the same cost in skill.",
        "That noise is one draw, and one way of doing harm out of many. It is added after the last "
        "block too, which hits sharp predictions directly, so that few parts cost extracted "
        "windows more. Another comparison may say otherwise: the columns of differences subtract "
        "rises of NLL, and a part that harms all text much harms what is sharply foretold most.",
        "What was extracted is chosen by being foretold without an error: any harm shows there "
        "first, and a small loss is no sign of memory.",
    ]
    if not has_controls:
        notes.append(
            "The run had no controls: skill is measured by windows of the data that are not "
            "extracted, which the model was trained on if the data are its training data."
        )
    if left:
        notes.append(
            f"Attention cannot be told to look at itself alone in blocks {left}: they have none, "
            "or none with a mask; only their feed-forward parts are judged."
        )
    if fixed:
        notes.append(f"Blocks {fixed} have no feed-forward part that could be taken away exactly.")
    if found.unstable:
        notes.append(
            f"{found.unstable} windows that the run counts as extracted are not here, where "
            "another batch decided a near-tie; they are left out."
        )
    return notes
