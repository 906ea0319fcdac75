"""Judges the instrument: did the scan find what is known to be there, and nothing else?

Knows a scan's result and the truth table. Each check can fail for one reason that a user should
know of; none is a gate, for they say nothing of anybody's model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from memaudit.config.settings import AttackName
from memaudit.data.clusters import have_marks
from memaudit.demo.shipped import KnownRecord
from memaudit.report.findings import cautious_p, model_attacks
from memaudit.report.result import AttackResult, ScanResult
from memaudit.report.wording import count, percent

Bools = NDArray[np.bool_]

SIGNIFICANT = 0.01
"""Largest p-value that shows an effect: a demonstration that is repeated should not fail by
chance, and the effects that are there are far larger."""
DISAGREEMENT = 0.01
"""Share of records on which another machine may decide otherwise than the one that made the
truth table: sums of floating-point numbers end in other last digits, and near-ties turn."""
HIDDEN_SHARE = 0.5
"""Least share of the hidden records that a working prompt brings back."""
CONTROLS_BOUND = 0.01
"""What the upper end of the controls' rate has to stay below."""


@dataclass(frozen=True)
class Check:
    """One thing that has to be so if the instrument works."""

    name: str
    holds: bool
    finding: str
    """What was found, in a sentence."""


def judge_instrument(
    result: ScanResult, seen: Sequence[NDArray[np.uint64]], truth: Mapping[str, KnownRecord]
) -> tuple[Check, ...]:
    """Every check. The records that were scored have to be those of the truth table.

    seen: for each fold the marks (data.clusters.find_marks) of what its prompts were fitted and
    selected on, as their files hold them.
    """
    known = [truth[name] for name in result.data.windows.sample_id]
    none, dynamic = _of(result, "none"), _of(result, "dynamic")
    return (
        _same_as_known(none, known),
        _rises(dynamic, known),
        _unlocks(dynamic, known),
        _controls(result),
        _unseen(result, known),
        _kept_apart(result, seen),
        _copy(_of(result, "copy")),
    )


def _of(result: ScanResult, attack: AttackName) -> AttackResult:
    found = result.attack(attack)
    if found is None:
        raise ValueError(f"the demonstration needs the attack {attack}")
    return found


def _same_as_known(none: AttackResult, known: list[KnownRecord]) -> Check:
    expected = np.array([record.exact_plain for record in known])
    agree = int((none.data.exact == expected).sum())
    return Check(
        "plain prefix",
        len(known) - agree <= DISAGREEMENT * len(known),
        f"none extracts {count(int(none.data.exact.sum()), 'record')}; {agree:,} of {len(known):,} "
        "verdicts are those of transformers' own decoding.",
    )


def _rises(dynamic: AttackResult, known: list[KnownRecord]) -> Check:
    """Extracted records were trained on more often (Mann–Whitney U test, one-sided)."""
    repetitions = np.array([record.repetitions for record in known])
    exact = dynamic.data.exact
    trained = repetitions > 0
    hit, missed = repetitions[trained & exact], repetitions[trained & ~exact]
    p_value = 1.0
    if len(hit) and len(missed):
        p_value = float(stats.mannwhitneyu(hit, missed, alternative="greater").pvalue)
    rates = ", ".join(
        f"{percent(float(exact[repetitions == times].mean()))} at {times}"
        for times in np.unique(repetitions[trained]).tolist()
    )
    return Check(
        "repetitions",
        p_value < SIGNIFICANT,
        f"dynamic extracts more of what was repeated more often: {rates} (p = {p_value:.1g}).",
    )


def _unlocks(dynamic: AttackResult, known: list[KnownRecord]) -> Check:
    hidden = np.array([record.hidden for record in known])
    there, back = int(hidden.sum()), int((dynamic.data.exact & hidden).sum())
    lift = dynamic.summary.lift
    gained, lost, p_value = (lift.gained, lift.lost, cautious_p(lift)) if lift else (0, 0, 1.0)
    return Check(
        "hidden memory",
        back > HIDDEN_SHARE * there and gained > lost and p_value < SIGNIFICANT,
        f"dynamic brings back {back:,} of {there:,} known to be there and hidden from the plain "
        f"prefix; in all it extracts {gained:,} that none misses, and misses {lost:,} that none "
        f"extracts (p = {p_value:.1g}).",
    )


def _controls(result: ScanResult) -> Check:
    rates = [attack.summary.controls_exact for attack in model_attacks(result)]
    scored = [rate for rate in rates if rate is not None]
    hits = sum(rate.k for rate in scored)
    bound = max((rate.interval.high for rate in scored), default=1.0)
    return Check(
        "controls",
        hits == 0 and bound <= CONTROLS_BOUND,
        f"{count(hits, 'hit')} in {scored[0].n if scored else 0:,} controls by "
        f"{count(len(scored), 'attack')}, so at most {percent(bound)} of such text comes out.",
    )


def _unseen(result: ScanResult, known: list[KnownRecord]) -> Check:
    """Records among the data that the model never saw, many with one suffix between them: a
    prompt may have been fitted on them, but nothing of them is there to be brought out.
    """
    unseen = np.array([record.repetitions == 0 for record in known])
    said: Bools = np.any([attack.data.exact for attack in model_attacks(result)], axis=0)
    hits = int((said & unseen).sum())
    return Check(
        "never trained on",
        hits == 0,
        f"{hits:,} of {int(unseen.sum()):,} records come out that stand in the data and that the "
        "model never saw.",
    )


def _kept_apart(result: ScanResult, seen: Sequence[NDArray[np.uint64]]) -> Check:
    """No window was scored by a prompt that saw it or a near-duplicate of it."""
    data, run = result.data, result.config.protocol.cluster_run
    shared = sum(
        int(
            (have_marks(data.windows, run, data.summary.sha256, marks) & (data.folds == fold)).sum()
        )
        for fold, marks in enumerate(seen)
    )
    return Check(
        "folds",
        bool(seen) and shared == 0,
        f"{shared:,} of {len(data.windows):,} records share their suffix or a run of {run} tokens "
        "with what the prompts that scored them were fitted on.",
    )


def _copy(copy: AttackResult) -> Check:
    hits = int(copy.data.exact.sum())
    return Check(
        "copy",
        hits == 0,
        f"copying from the fit data, without asking the model, gives {count(hits, 'record')}.",
    )
