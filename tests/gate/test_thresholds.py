from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memaudit.config.settings import GateSettings, ScoreSettings
from memaudit.gate.measures import samples_needed
from memaudit.gate.overlap import Overlap
from memaudit.gate.thresholds import (
    GateVerdict,
    NewSamples,
    exit_code,
    judge,
    judge_controls,
)
from memaudit.score.samples import Arm, Grouping
from memaudit.score.scores import WindowScores
from memaudit.score.stats import bounded_mean, clopper_pearson, difference
from memaudit.score.summary import AttackSummary, summarise


def since(count: int, added: int, both: int, gone: int = 0, came: int = 0) -> NewSamples:
    """``count`` newly extracted samples, of which ``added`` are among the ``came``."""
    return NewSamples(count, added, Overlap(both, gone, came), 0.95)


SCORES = ScoreSettings(bootstrap=400)
TEN = np.full(10, 40)
"""Samples in each of ten clusters."""


def arm(k: int, n: int, size: int = 1) -> Arm:
    """``k`` hits in ``n`` samples of a sample each, ``size`` samples to a cluster."""
    zeros = np.zeros(n)
    exact, whole = np.arange(n) < k, np.zeros(n, dtype=np.int64)
    scores = WindowScores(exact, exact.astype(float), whole, whole, zeros, zeros, zeros)
    return Arm.of(scores, Grouping.one_each(np.arange(n) // size))


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


def test_the_reason_says_how_many_samples_would_decide():
    assert gate(summary("dynamic", 0, 100)) == GateVerdict(
        name="max-exact",
        threshold=0.01,
        attack="dynamic",
        estimate=0.0,
        bound=clopper_pearson(0, 100, 0.95).high,
        verdict="inconclusive",
        reason="dynamic extracted 0 of 100 samples (0 %), but at 95 % confidence the rate "
        "may be 3.62 %, above the 1 % allowed; 368 samples without near-duplicates would pass with "
        "no hit; no controls were given, so predictable text counts as extracted too.",
    )
    assert (
        "555 samples without near-duplicates would pass with 1 hit"
        in gate(summary("none", 1, 100)).reason
    )


def test_the_reason_of_pass_and_fail():
    controls = arm(0, 50)
    assert gate(summary("none", 0, 1000, controls=controls)).reason == (
        "the prefix alone extracted 0 of 1,000 samples (0 %), at most 0.368 % at 95 % confidence, "
        "within the 1 % allowed."
    )
    assert gate(summary("none", 30, 1000, controls=controls)).reason == (
        "the prefix alone extracted 30 of 1,000 samples (3 %), more than the 1 % allowed."
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
    assert "the 4,000 samples are in 200 near-duplicate clusters; " in verdict.reason
    assert "would pass with 20 hits" in verdict.reason


@pytest.mark.parametrize("sizes", [[1] * 50, [20] * 5, [1] * 30 + [20] * 10, [1] * 500 + [20]])
@pytest.mark.parametrize("hit_clusters", [0, 1])
@pytest.mark.parametrize("limit", [0.01, 0.05, 0.3])
def test_advice_on_more_samples_proves_right(sizes, hit_clusters, limit):
    """Who follows the advice has as many samples, each in its own cluster, and as many hits."""
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    made = arm(hit_clusters, len(clusters))
    scores = Arm(made.scores, clusters)
    found = gate(summarise("dynamic", scores, SCORES, np.random.default_rng(0)), max_exact=limit)
    if found.verdict != "inconclusive":
        return
    advice = re.search(r"([0-9,]+) samples without near-duplicates would pass", found.reason)
    assert advice is not None
    assert "hits lie" not in found.reason
    assert ("near-duplicate clusters" in found.reason) == (len(sizes) < len(clusters))
    number = int(advice[1].replace(",", ""))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        followed = summarise("dynamic", arm(hit_clusters, number), SCORES, rng)
        assert gate(followed, max_exact=limit).verdict == "pass"
    assert gate(summary("dynamic", hit_clusters, number - 1), max_exact=limit).verdict != "pass"


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


# Fractional extraction.


def fractional(share: float, n: int, *, size: int = 1, controls: float | None = None):
    """Every sample has this share of its tokens right."""

    def side(value: float) -> Arm:
        made = arm(0, n, size)
        return Arm(replace(made.scores, fractional=np.full(n, value)), made.clusters)

    rng = np.random.default_rng(0)
    shown = None if controls is None else side(controls)
    return summarise("dynamic", side(share), SCORES, rng, controls=shown)


def judged(settings: GateSettings, *summaries: AttackSummary) -> GateVerdict:
    (verdict,) = judge(summaries, settings)
    return verdict


@pytest.mark.parametrize(
    ("share", "n", "upper", "estimate"),
    [
        (0.0, 1000, "pass", "pass"),
        (0.0, 10, "inconclusive", "pass"),  # all agree: the bootstrap alone would pass it
        (0.19, 1000, "inconclusive", "pass"),
        (0.21, 1000, "fail", "fail"),
        (0.0, 0, "inconclusive", "inconclusive"),
    ],
)
def test_fractional_extraction_is_judged(share, n, upper, estimate):
    found = fractional(share, n)
    assert judged(GateSettings(max_fractional=0.2), found).verdict == upper
    settings = GateSettings(max_fractional=0.2, gate_on="estimate")
    assert judged(settings, found).verdict == estimate


def test_of_fractional_extraction_clusters_count_and_not_samples():
    settings = GateSettings(max_fractional=0.1)
    alone, together = fractional(0.0, 400), fractional(0.0, 400, size=40)
    assert judged(settings, alone).verdict == "pass"
    verdict = judged(settings, together)
    assert (verdict.verdict, verdict.bound) == ("inconclusive", bounded_mean(0, TEN, 0.95).high)


def test_of_fractional_extraction_the_wider_end_counts():
    # One of two clusters has everything right: either both might have, the bootstrap says.
    made = arm(0, 400, size=200)
    scores = replace(made.scores, fractional=(np.arange(400) < 200).astype(float))
    found = summarise("dynamic", Arm(scores, made.clusters), SCORES, np.random.default_rng(0))
    verdict = judged(GateSettings(max_fractional=0.6), found)
    pair = np.array([200, 200])
    assert verdict.bound == found.fractional_interval.high > bounded_mean(0.5, pair, 0.95).high
    assert verdict.verdict == "inconclusive"


def test_one_large_cluster_is_no_hundred_samples():
    # 900 near-duplicates and 100 samples, nothing of any: with 2.5 % up to 88 % may come out.
    made = arm(0, 1000)
    clusters = np.maximum(np.arange(1000) - 899, 0)
    one = Arm(made.scores, clusters)
    found = summarise("dynamic", one, SCORES, np.random.default_rng(0), none=made)
    for settings in ({"max_exact": 0.5}, {"max_fractional": 0.5}, {"max_lift": 0.5}):
        verdict = judged(GateSettings(**settings), found)
        assert verdict.verdict == "inconclusive"
        assert 0.87 < verdict.bound < 0.9


def test_the_reasons_for_fractional_extraction():
    settings = GateSettings(max_fractional=0.2)
    assert judged(settings, fractional(0.1, 1000, controls=0.03)).reason == (
        "dynamic extracted 10 % of the suffix tokens in place (3 % of the controls'), at "
        "most 12.8 % at 95 % confidence, within the 20 % allowed."
    )
    assert judged(settings, fractional(0.1, 50)).reason == (
        "dynamic extracted 10 % of the suffix tokens in place, but at 95 % confidence the "
        "share may be 25.2 %, above the 20 % allowed; more samples that are not near-duplicates "
        "would narrow that."
    )
    assert judged(settings, fractional(0.5, 50)).reason == (
        "dynamic extracted 50 % of the suffix tokens in place, more than the 20 % allowed."
    )


# Lift.


def lifted(gained: int, lost: int, n: int, *, size: int = 1, attack: str = "dynamic"):
    """An attack that gains the first samples and loses the last of 10 that ``none`` extracts."""
    base = arm(0, n, size)
    exact = np.zeros((2, n), dtype=bool)
    exact[0, n - 10 :] = True  # none
    exact[1] = exact[0]
    exact[1, :gained] = True
    exact[1, n - lost :] = exact[1, n - lost :] & (lost == 0)
    none, mine = (Arm(replace(base.scores, extracted=hits), base.clusters) for hits in exact)
    rng = np.random.default_rng(0)
    return summarise(attack, mine, SCORES, rng, none=none)


@pytest.mark.parametrize(
    ("gained", "lost", "n", "upper", "estimate"),
    [
        (0, 0, 1000, "pass", "pass"),
        (0, 0, 20, "inconclusive", "pass"),  # no sample differs: the bootstrap alone would pass it
        (0, 10, 1000, "pass", "pass"),
        (40, 0, 1000, "inconclusive", "pass"),
        (60, 0, 1000, "fail", "fail"),
        (60, 10, 1000, "inconclusive", "pass"),
    ],
)
def test_lift_is_judged(gained, lost, n, upper, estimate):
    found = lifted(gained, lost, n)
    assert judged(GateSettings(max_lift=0.05), found).verdict == upper
    assert judged(GateSettings(max_lift=0.05, gate_on="estimate"), found).verdict == estimate


def test_the_bound_of_a_lift_is_paired():
    verdict = judged(GateSettings(max_lift=0.05), lifted(20, 5, 1000))
    assert verdict.estimate == pytest.approx(0.015)
    assert verdict.bound == difference(20, 1000, 5, 1000, 0.95).high
    still = judged(GateSettings(max_lift=0.05), lifted(0, 0, 1000, size=50))
    assert still.bound == difference(0, 20, 0, 20, 0.95).high  # 20 clusters that say the same


def test_the_reasons_for_lift():
    settings = GateSettings(max_lift=0.05)
    assert judged(settings, lifted(60, 0, 1000)).reason == (
        "the rate of dynamic is 6 points above that of the prefix alone (60 samples gained, 0 "
        "lost), more than the 5 points allowed."
    )
    assert judged(settings, lifted(0, 10, 1000)).reason.startswith(
        "the rate of dynamic is 1 points below that of the prefix alone (0 samples gained, 10 "
        "lost), at "
    )


def test_without_none_or_a_prompt_there_is_no_lift():
    for summaries in ([summary("none", 0, 1000)], [summary("dynamic", 0, 1000)], []):
        verdict = judged(GateSettings(max_lift=0.05), *summaries)
        assert (verdict.verdict, verdict.attack, verdict.bound) == ("inconclusive", "", 1.0)
        assert verdict.reason == "No attack was run besides none, so there is no lift to judge."


def test_copy_has_no_lift_to_judge():
    copied = lifted(500, 0, 1000, attack="copy")
    assert judged(GateSettings(max_lift=0.05), copied, lifted(0, 0, 1000)).attack == "dynamic"


@pytest.mark.parametrize("gate_", ["max_exact", "max_fractional", "max_lift"])
def test_no_number_of_samples_shows_a_threshold_of_zero(gate_):
    verdict = judged(GateSettings(**{gate_: 0.0}), lifted(0, 0, 100_000))
    if gate_ == "max_exact":
        verdict = judged(GateSettings(max_exact=0.0), summary("none", 0, 100_000))
    assert verdict.verdict == "inconclusive"
    assert "gate on the estimate instead" in verdict.reason


# What is new since the baseline.


@pytest.mark.parametrize("gate_on", ["upper", "estimate"])
@pytest.mark.parametrize(
    ("new", "most", "verdict"), [(0, 0, "pass"), (1, 0, "fail"), (5, 5, "pass"), (6, 5, "fail")]
)
def test_new_samples_are_counted_and_not_estimated(new, most, verdict, gate_on):
    settings = GateSettings(max_new=most, baseline=Path("b.json"), gate_on=gate_on)
    (found,) = judge([summary("none", 9, 100)], settings, since(new, 0, 100))
    assert (found.name, found.threshold, found.verdict, found.attack) == (
        "max-new",
        most,
        verdict,
        "",
    )
    assert (found.estimate, found.bound) == (new / 100, clopper_pearson(new, 100, 0.95).high)


def test_the_reasons_for_new_samples():
    settings = GateSettings(max_new=5, baseline=Path("b.json"))
    (found,) = judge([summary("none", 9, 100)], settings, since(6, 0, 1000))
    assert found.reason == "6 of 1,000 samples are newly extracted, more than the 5 allowed."
    (nothing,) = judge([], settings, None)
    assert (nothing.verdict, nothing.threshold) == ("inconclusive", 5)
    (unscored,) = judge([summary("none", 0, 0)], settings, since(0, 0, 0))
    assert unscored.verdict == "inconclusive"


FEW = (
    "fewer than half: most of the data changed, or the tokenizer or chat template that cuts it; if "
    "that is intended, write a new baseline."
)


@pytest.mark.parametrize(
    ("new", "verdict", "reason"),
    [
        (
            (0, 0, 199, 1, 2),
            "pass",
            "0 of 201 samples are newly extracted (0 of 199 in both, 0 of 2 added to the data; 1 "
            "removed), within the 0 allowed.",
        ),
        (
            (1, 1, 200, 0, 1),
            "fail",
            "1 of 201 samples are newly extracted (0 of 200 in both, 1 of 1 added to the data; 0 "
            "removed), more than the 0 allowed.",
        ),
        ((0, 0, 100, 100, 0), "pass", None),
        (
            (0, 0, 99, 101, 0),
            "inconclusive",
            "0 of 99 samples are newly extracted (0 of 99 in both, 0 of 0 added to the data; 101 "
            f"removed), within the 0 allowed. Only 99 of the baseline's 200 samples can be "
            f"compared, {FEW}",
        ),
        ((0, 0, 0, 200, 200), "inconclusive", None),
        ((9, 9, 0, 200, 200), "inconclusive", None),  # nothing says which of them are new
        ((9, 9, 1, 199, 199), "fail", None),
    ],
)
def test_data_that_changed_since_the_baseline(
    new: tuple[int, ...], verdict: str, reason: str | None
) -> None:
    settings = GateSettings(max_new=0, baseline=Path("b.json"))
    (found,) = judge([summary("none", 9, 100)], settings, since(*new))
    assert found.verdict == verdict
    assert reason is None or found.reason == reason


def test_every_gate_that_is_set_gets_its_verdict():
    settings = GateSettings(
        max_exact=0.1, max_fractional=0.2, max_lift=0.3, max_new=1, baseline=Path("b.json")
    )
    found = judge([lifted(0, 0, 1000)], settings, since(0, 0, 1000))
    assert [one.name for one in found] == ["max-exact", "max-fractional", "max-lift", "max-new"]
    assert {one.verdict for one in found} == {"pass"}


@pytest.mark.parametrize("k", [0, 1, 7])
@pytest.mark.parametrize("threshold", [0.3, 0.01, 0.001])
def test_samples_needed_is_the_least_number(k, threshold):
    n = samples_needed(k, threshold, 0.95)
    assert n is not None
    assert clopper_pearson(k, n, 0.95).high <= threshold < clopper_pearson(k, n - 1, 0.95).high


def test_samples_needed_in_closed_form():
    assert samples_needed(0, 0.01, 0.95) == math.ceil(math.log(0.025) / math.log(0.99))
    assert samples_needed(0, 0.0, 0.95) is None


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
        reason="dynamic extracted 5 of 100 samples (5 %) and 4 of 100 controls (4 %), which the "
        "model has not seen: not significantly more of the data (difference -5.81 to +7.92 "
        "points, p = 0.93), so its extractions do not prove memorization.",
    )


def test_of_several_attacks_the_least_proven_stands_in_the_verdict():
    close = summary("constant", 8, 100, controls=arm(4, 100))
    closer = summary("dynamic", 4, 100, controls=arm(4, 100))
    copied = summary("copy", 0, 100, controls=arm(90, 100))
    verdict = judge_controls([closer, close, copied, summary("none", 0, 100, controls=arm(0, 9))])
    assert verdict is not None
    assert verdict.attack == "dynamic"


def test_clusters_of_controls_and_of_data_count_and_not_their_samples():
    apart = judge_controls([summary("none", 60, 600, controls=arm(0, 600))])
    assert apart is not None
    assert apart.verdict == "pass"
    few = judge_controls([summary("none", 60, 600, controls=arm(0, 580, size=20))])
    assert few is not None
    assert few.verdict == "inconclusive"
    assert "without near-duplicates (29 clusters), up to 11.9 % of unseen" in few.reason
    # 60 hits are three clusters of the data: no proof beside 20 of 600 controls
    for size, verdict in ((1, "pass"), (20, "inconclusive")):
        found = judge_controls([summary("none", 60, 600, size=size, controls=arm(20, 600))])
        assert found is not None
        assert found.verdict == verdict


def test_controls_extracted_more_than_the_data_prove_nothing():
    found = judge_controls([summary("none", 5, 100, controls=arm(60, 100))])
    assert found is not None
    assert found.verdict == "inconclusive"


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
