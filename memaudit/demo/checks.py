"""Check the instrument: does the scan find what the model memorized, and nothing else?

Knows a scan's result and the truth table. Each check fails for one reason that a user should know.
None is a gate: they do not judge a user's model.
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
from memaudit.report.reading import cautious_p
from memaudit.report.result import AttackResult, ScanResult
from memaudit.report.wording import (
    count,
)
from memaudit.score.estimate import percent

Bools = NDArray[np.bool_]

SIGNIFICANT = 0.01
"""Largest p-value of an effect: a repeated demonstration should not fail by chance, and the real
effects are far larger."""
DISAGREEMENT = 0.01
"""Share of records on which a machine may differ from the one that made the truth table: rounding
differs in the last digits, and near-ties flip."""
HIDDEN_SHARE = 0.5
"""Share of the hidden records that a working prompt has to exceed."""
CONTROLS_BOUND = 0.01
"""Largest upper end of the interval of the controls' rate."""


@dataclass(frozen=True)
class Check:
    """A condition that holds if the instrument works."""

    name: str
    holds: bool
    finding: str
    """The finding in a sentence."""


def judge_instrument(
    result: ScanResult, marks: Sequence[NDArray[np.uint64]], truth: Mapping[str, KnownRecord]
) -> tuple[Check, ...]:
    """Run every check. The scored records have to be those of the truth table.

    marks: for each fold the marks (data.clusters.Marker) of the windows that its prompts were
    fitted and selected on, as in the prompt files.
    """
    known = [truth[name] for name in result.data.windows.sample_id]
    none, dynamic = _of(result, "none"), _of(result, "dynamic")
    return (
        _matches_truth(none, known),
        _rises(dynamic, known),
        _unlocks(dynamic, known),
        _controls(result),
        _untrained(result, known),
        _folds_separate(result, marks),
        _copy(_of(result, "copy")),
    )


def _of(result: ScanResult, attack: AttackName) -> AttackResult:
    attack_result = result.attack(attack)
    if attack_result is None:
        raise ValueError(f"the demonstration needs the attack {attack}")
    return attack_result


def _matches_truth(none: AttackResult, known: list[KnownRecord]) -> Check:
    expected = np.array([record.exact_plain for record in known])
    agree = int((none.data.exact == expected).sum())
    return Check(
        "plain prefix",
        len(known) - agree <= DISAGREEMENT * len(known),
        f"the prefix alone extracts {count(int(none.data.exact.sum()), 'record')}; {agree:,} of "
        f"{len(known):,} verdicts equal those of transformers' own decoding.",
    )


def _rises(dynamic: AttackResult, known: list[KnownRecord]) -> Check:
    """Check that extracted records were repeated more often (Mann–Whitney U test, one-sided)."""
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
        f"dynamic extracts more of the records repeated more often: {rates} (p = {p_value:.1g}).",
    )


def _unlocks(dynamic: AttackResult, known: list[KnownRecord]) -> Check:
    hidden = np.array([record.hidden for record in known])
    total, extracted = int(hidden.sum()), int((dynamic.data.exact & hidden).sum())
    lift = dynamic.summary.lift
    gained, lost, p_value = (lift.gained, lift.lost, cautious_p(lift)) if lift else (0, 0, 1.0)
    return Check(
        "hidden memory",
        extracted > HIDDEN_SHARE * total and gained > lost and p_value < SIGNIFICANT,
        f"dynamic extracts {extracted:,} of {total:,} memorized records that the prefix alone "
        f"does not; overall it extracts {gained:,} that the prefix alone misses, and misses "
        f"{lost:,} that it extracts (p = {p_value:.1g}).",
    )


def _controls(result: ScanResult) -> Check:
    rates = [
        attack.summary.controls_extracted for attack in result.attacks if attack.attack != "copy"
    ]
    scored = [rate for rate in rates if rate is not None]
    hits = sum(rate.k for rate in scored)
    bound = max((rate.interval.high for rate in scored), default=1.0)
    return Check(
        "controls",
        hits == 0 and bound <= CONTROLS_BOUND,
        f"{count(hits, 'hit')} in {scored[0].n if scored else 0:,} controls by "
        f"{count(len(scored), 'attack')}; upper bound of the rate: {percent(bound)}.",
    )


def _untrained(result: ScanResult, known: list[KnownRecord]) -> Check:
    """Check that no record is extracted that the model was never trained on.

    Many of these records share one suffix: a prompt may have been fitted on them, but the model
    has not memorized them.
    """
    untrained = np.array([record.repetitions == 0 for record in known])
    exact: Bools = np.any(
        [attack.data.exact for attack in result.attacks if attack.attack != "copy"], axis=0
    )
    hits = int((exact & untrained).sum())
    return Check(
        "never trained on",
        hits == 0,
        f"{hits:,} of {int(untrained.sum()):,} records in the data that the model was never "
        "trained on are extracted.",
    )


def _folds_separate(result: ScanResult, marks: Sequence[NDArray[np.uint64]]) -> Check:
    """Check that no prompt scored a window that it had seen, or a near-duplicate of one."""
    data, run = result.data, result.config.protocol.cluster_run
    shared = sum(
        int(
            (
                have_marks(data.windows, run, data.summary.sha256, fold_marks)
                & (data.folds == fold)
            ).sum()
        )
        for fold, fold_marks in enumerate(marks)
    )
    return Check(
        "folds",
        bool(marks) and shared == 0,
        f"{shared:,} of {len(data.windows):,} records share their suffix or a run of {run} tokens "
        "with records that their prompts were fitted on.",
    )


def _copy(copy: AttackResult) -> Check:
    hits = int(copy.data.exact.sum())
    return Check(
        "copy",
        hits == 0,
        f"copying from the fit data, without the model, gives {count(hits, 'record')}.",
    )
