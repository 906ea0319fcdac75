from __future__ import annotations

import math

import numpy as np
import pytest

from memaudit.config import GateSettings, ScoreSettings
from memaudit.gate.thresholds import (
    GateVerdict,
    exit_code,
    judge,
    judge_controls,
    windows_needed,
)
from memaudit.score.scores import Arm, AttackSummary, WindowScores, summarise
from memaudit.score.stats import clopper_pearson

SCORES = ScoreSettings(bootstrap=400)


def arm(k: int, n: int, size: int = 1) -> Arm:
    """``k`` hits in ``n`` windows, ``size`` windows to a cluster."""
    zeros = np.zeros(n)
    exact, whole = np.arange(n) < k, np.zeros(n, dtype=np.int64)
    scores = WindowScores(exact, exact.astype(float), whole, whole, zeros, zeros, zeros)
    return Arm(scores, np.arange(n) // size)


def summary(
    attack: str, k: int, n: int, *, size: int = 1, controls: Arm | None = None
) -> AttackSummary:
    rng = np.random.default_rng(0)
    return summarise(attack, arm(k, n, size), SCORES, rng, controls=controls)


def gate(*summaries: AttackSummary, max_exact: float = 0.01, gate_on="upper") -> GateVerdict:
    (verdict,) = judge(summaries, GateSettings(max_exact=max_exact, gate_on=gate_on))
    return verdict


def test_without_a_threshold_there_is_no_gate():
    assert judge([summary("dynamic", 9, 9)], GateSettings()) == ()


@pytest.mark.parametrize(
    ("k", "n", "upper", "estimate"),
    [
        (0, 1000, "pass", "pass"),
        (0, 100, "inconclusive", "pass"),
        (1, 100, "inconclusive", "pass"),
        (2, 100, "fail", "fail"),
        (0, 0, "inconclusive", "inconclusive"),
    ],
)
def test_the_bound_and_the_estimate_judge_differently(k, n, upper, estimate):
    assert gate(summary("dynamic", k, n)).verdict == upper
    assert gate(summary("dynamic", k, n), gate_on="estimate").verdict == estimate


def test_the_reason_says_how_many_windows_would_decide():
    assert gate(summary("dynamic", 0, 100)) == GateVerdict(
        name="max-exact",
        threshold=0.01,
        attack="dynamic",
        estimate=0.0,
        bound=clopper_pearson(0, 100, 0.95).high,
        verdict="inconclusive",
        reason="dynamic extracted 0 of 100 windows (0 %) exactly, but at 95 % confidence the rate "
        "may be 3.62 %, above the 1 % allowed; 368 windows with no hit would pass; no controls "
        "were given, so predictable text counts as extracted too.",
    )
    assert "555 windows with 1 hit would pass" in gate(summary("none", 1, 100)).reason


def test_the_reason_of_pass_and_fail():
    controls = arm(0, 50)
    assert gate(summary("none", 0, 1000, controls=controls)).reason == (
        "none extracted 0 of 1,000 windows (0 %) exactly, at most 0.368 % at 95 % confidence, "
        "within the 1 % allowed."
    )
    assert gate(summary("none", 30, 1000, controls=controls)).reason == (
        "none extracted 30 of 1,000 windows (3 %) exactly, more than the 1 % allowed."
    )


def test_a_threshold_of_zero_needs_the_estimate():
    verdict = gate(summary("none", 0, 1000), max_exact=0.0)
    assert verdict.verdict == "inconclusive"
    assert "gate on the estimate" in verdict.reason
    assert gate(summary("none", 0, 1000), max_exact=0.0, gate_on="estimate").verdict == "pass"


def test_the_larger_upper_end_counts():
    # 20 hits in one cluster of 20: the exact interval takes them for 20 independent ones.
    found = summary("dynamic", 20, 4000, size=20)
    verdict = gate(found)
    assert found.exact.interval.high < 0.01 < found.exact.clustered.high == verdict.bound
    assert verdict.verdict == "inconclusive"
    assert "more independent samples" in verdict.reason


def test_the_worst_attack_decides_and_copy_does_not_count():
    passing, open_ = summary("none", 0, 1000), summary("constant", 5, 1000)
    failing, copied = summary("dynamic", 50, 1000), summary("copy", 900, 1000)
    assert gate(copied, passing).attack == "none"
    assert gate(passing, open_, copied).attack == "constant"
    assert gate(failing, open_, passing).verdict == "fail"
    assert gate(summary("none", 11, 1000), failing).attack == "dynamic"


def test_a_gate_that_nothing_was_run_for_is_inconclusive():
    verdict = gate(summary("copy", 0, 1000))
    assert (verdict.attack, verdict.verdict, verdict.bound) == ("", "inconclusive", 1.0)
    assert math.isnan(verdict.estimate)


@pytest.mark.parametrize("k", [0, 1, 7])
@pytest.mark.parametrize("threshold", [0.3, 0.01, 0.001])
def test_windows_needed_is_the_least_number(k, threshold):
    n = windows_needed(k, threshold, 0.95)
    assert n is not None
    assert clopper_pearson(k, n, 0.95).high <= threshold < clopper_pearson(k, n - 1, 0.95).high


def test_windows_needed_in_closed_form():
    assert windows_needed(0, 0.01, 0.95) == math.ceil(math.log(0.025) / math.log(0.99))
    assert windows_needed(0, 0.0, 0.95) is None


def test_controls_that_are_not_extracted_prove_the_attack():
    verdict = judge_controls([summary("none", 5, 100, controls=arm(0, 100))])
    assert verdict is not None
    assert (verdict.verdict, verdict.name, verdict.threshold) == ("pass", "controls", 0.0)


def test_controls_extracted_far_less_than_the_data_prove_the_attack():
    verdict = judge_controls([summary("none", 60, 100, controls=arm(2, 100))])
    assert verdict is not None
    assert verdict.verdict == "pass"


def test_controls_extracted_like_the_data_prove_nothing():
    controls = arm(4, 100)
    good, bad = summary("none", 60, 100), summary("dynamic", 5, 100, controls=controls)
    verdict = judge_controls([good, bad])
    assert verdict == GateVerdict(
        name="controls",
        threshold=0.04,
        attack="dynamic",
        estimate=0.05,
        bound=bad.exact.interval.high,
        verdict="inconclusive",
        reason="dynamic extracted 5 of 100 windows (5 %) and 4 of 100 controls (4 %), which the "
        "model has not seen: not significantly more of the data (p = 0.5), so what it extracts "
        "is no proof of memorization.",
    )


def test_of_several_attacks_the_least_proven_stands_in_the_verdict():
    close = summary("constant", 8, 100, controls=arm(4, 100))
    closer = summary("dynamic", 4, 100, controls=arm(4, 100))
    copied = summary("copy", 0, 100, controls=arm(90, 100))
    verdict = judge_controls([closer, close, copied, summary("none", 0, 100, controls=arm(0, 9))])
    assert verdict is not None
    assert verdict.attack == "dynamic"


def test_without_controls_there_is_no_verdict_on_them():
    assert judge_controls([summary("none", 5, 100)]) is None
    assert judge_controls([]) is None


def test_controls_that_could_not_be_scored_are_inconclusive():
    verdict = judge_controls([summary("none", 5, 100, controls=arm(0, 0))])
    assert verdict is not None
    assert verdict.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([], 0),
        (["pass", "pass"], 0),
        (["pass", "inconclusive"], 4),
        (["inconclusive", "fail", "pass"], 1),
    ],
)
def test_exit_code_is_the_worst_verdict(verdicts, code):
    made = [GateVerdict("max-exact", 0.1, "none", 0.0, 0.1, v, "") for v in verdicts]
    assert exit_code(made) == code
