from __future__ import annotations

from made_result import HITS, make_result, make_windows

from memaudit.config.settings import LADDER
from memaudit.data.samples import Skipped
from memaudit.report.build import to_report, wide_interval
from memaudit.report.findings import ReasonCount, count_reasons
from memaudit.report.reading import strongest
from memaudit.report.result import ScanResult


def best_of(**hits: int) -> str:
    attack = strongest(to_report(make_result(hits=hits, controls=None)))
    assert attack is not None
    return attack.attack


def headline(result: ScanResult) -> tuple[str, ...]:
    return to_report(result).headline


def test_of_equal_attacks_the_simplest_is_the_strongest():
    assert best_of(none=3, constant=4, dynamic=4) == "constant"
    assert best_of(none=4, dynamic=4) == "none"


def test_copy_is_never_the_strongest():
    assert best_of(none=1, copy=90) == "none"
    assert strongest(to_report(make_result(hits={"copy": 3}, controls=None))) is None


def test_the_interval_takes_the_outer_end_of_either_kind():
    rate = make_result().attacks[0].summary.exact
    outer = wide_interval(rate)
    for inner in (rate.interval, rate.clustered):
        assert outer.low <= inner.low <= inner.high <= outer.high


def test_headline_names_rate_lift_and_controls():
    rate, lift, controls = headline(make_result())
    assert rate.startswith("dynamic, the strongest attack, extracts 15.5 % of the samples")
    assert "31 of 200" in rate
    assert "9.5 percentage points above" in lift
    assert "19 samples gained, 0 lost, p = 0.0005." in lift
    assert "0 of 100 (at most 3.6 %), a significantly smaller share" in controls


def test_headline_doubts_what_may_be_chance():
    hits = {"none": 2, "dynamic": 3}
    _, lift, controls = headline(make_result(hits=hits, controls={"dynamic": 2}))
    assert lift.endswith("1 sample gained, 0 lost, p = 1, which may be chance.")
    assert "2 of 100" in controls
    assert "not a significantly smaller share" in controls


def test_headline_of_zero_hits_has_a_bound():
    rate, lift, controls = headline(
        make_result(n=1305, hits=dict.fromkeys(LADDER, 0), controls=None)
    )
    assert rate == (
        "No attack on the model extracts any of the 1,305 samples: at most 0.28 % at 95 % "
        "confidence."
    )
    assert lift == "No prompt extracts more samples than the plain prefix (none)."
    assert controls.startswith("No controls were given")
    assert "0 of 1,305 exactly and 1.1 % of the tokens" in controls


def test_headline_where_attacks_were_left_out():
    assert "none) was not run" in headline(make_result(hits={"dynamic": 5}))[1]
    assert (
        headline(make_result(hits={"none": 5}))[1]
        == "Only the plain prefix (none) was tried, no prompt."
    )
    (only,) = headline(make_result(hits={"copy": 5}))
    assert only.startswith("No attack on the model was run")


def test_headline_tells_of_copy_only_where_it_hits():
    assert len(headline(make_result(hits={**HITS, "copy": 0}))) == 3
    assert headline(make_result(hits={**HITS, "copy": 7}))[3].startswith(
        "copy, which never queries the model, gets 7 of 200"
    )


def test_reasons_that_differ_in_numbers_are_one():
    reasons = [f"{n} tokens, the window needs 100" for n in (12, 88, 37)]
    reasons += ["not valid JSON (column 3)", "empty", "1" * 5000]
    skipped = [Skipped(str(i), i, reason) for i, reason in enumerate(reasons)]
    assert count_reasons(skipped) == (
        ReasonCount("12–88 tokens, the window needs 100", 3),
        ReasonCount("1" * 5000, 1),
        ReasonCount("empty", 1),
        ReasonCount("not valid JSON (column 3)", 1),
    )
    assert count_reasons(make_windows(2).skipped) == ()
