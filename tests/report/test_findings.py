from __future__ import annotations

from dataclasses import replace

from made_result import HITS, make_result, make_windows

from memaudit.attack.facts import FEW_TO_SELECT, NO_PROMPT
from memaudit.config.settings import LADDER
from memaudit.data.samples import Skipped
from memaudit.report.build import to_report, wide_interval
from memaudit.report.findings import ReasonCount, count_reasons
from memaudit.report.gate_reading import rejudge
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


def test_headline_says_what_the_model_repeats_then_what_prompts_add():
    plain, union, *_, controls, extent = headline(make_result())
    assert plain == (
        "Given the text before it and no added prompt, the model repeats a passage of 12 of the "
        "200 samples (records of the data) word for word: 6.0 % (3.0–10.2 % at 95 % "
        "confidence)."
    )
    assert union.startswith("Added prompts bring out 19 more: all attacks together extract 31 of")
    assert union.endswith(
        "dynamic alone brings out 19 that the prefix alone does not, and misses 0 that it does "
        "(p = 0.0005)."
    )
    assert controls.startswith("Of the 100 controls, text that the model has not seen, the same")
    assert "attacks extract 0 (at most 3.6 %), a significantly smaller share (" in controls
    assert extent == "Tested: 50.0 % of the tokens of 200 samples."


def test_headline_doubts_what_may_be_chance():
    hits = {"none": 2, "dynamic": 3}
    _, union, *_, controls, _ = headline(make_result(hits=hits, controls={"dynamic": 2}))
    assert union.endswith("misses 0 that it does (p = 1, which may be chance).")
    assert "extract 2 (" in controls
    assert "not a significantly smaller share" in controls


def test_headline_of_zero_hits_has_a_bound():
    plain, union, *_, controls, _ = headline(
        make_result(n=1305, hits=dict.fromkeys(LADDER, 0), controls=None)
    )
    assert plain == (
        "Given the text before it and no added prompt, the model repeats no passage of the 1,305 "
        "samples (records of the data) word for word: at most 0.28 % at 95 % confidence."
    )
    assert union == (
        "No added prompt brings out another sample: all attacks together extract 0 of 1,305 (0 %; "
        "at most 0.28 %)."
    )
    assert controls.startswith("No controls were given")
    assert "0 of 1,305 exactly and 1.1 % of the tokens" in controls


def test_headline_where_attacks_were_left_out():
    assert headline(make_result(hits={"dynamic": 5}))[0].endswith("The prefix alone was not tried.")
    plain, second, *_ = headline(make_result(hits={"none": 5}))
    assert "5 of the 200" in plain
    assert second.startswith("Sensitive content was not searched for")
    (only,) = headline(make_result(hits={"copy": 5}))
    assert only.startswith("No attack on the model was run")


def unchanged(result: ScanResult, chosen: tuple[str, ...]) -> ScanResult:
    """Let the fits of ``dynamic`` choose as given, fold by fold."""
    (fit,) = (fit for fit in result.fits[:1])
    fits = tuple(
        replace(fit, attack="dynamic", fold=fold, record=replace(fit.record, chosen=choice))
        for fold, choice in enumerate(chosen)
    )
    return replace(result, fits=fits)


def test_a_fit_that_chose_no_prompt_is_said_of_its_attack():
    result = make_result(hits={"none": 3, "dynamic": 3})
    told = "no trained prompt of dynamic was better"
    assert not any(told in line for line in headline(unchanged(result, ("epoch 1", "epoch 1"))))
    some = headline(unchanged(result, (NO_PROMPT, "epoch 1")))
    assert f"In 1 of 2 folds {told}, and the fit chose none." in some
    no_prompt = headline(unchanged(result, (NO_PROMPT, NO_PROMPT)))
    assert any(line.startswith("No trained prompt of dynamic was better") for line in no_prompt)


def test_attacks_that_trained_nothing_make_the_run_inconclusive():
    result = unchanged(make_result(hits={"none": 3, "dynamic": 3}), (NO_PROMPT, NO_PROMPT))
    assert not [due for due in rejudge(to_report(result)) if due.name == "attacks"]
    ended = tuple(
        replace(fit, record=replace(fit.record, stop_reason=FEW_TO_SELECT)) for fit in result.fits
    )
    report = to_report(replace(result, fits=ended))
    assert report.headline[0].startswith("dynamic trained no prompt: no fold has 30 windows")
    assert not any("was better" in line for line in report.headline)
    (check,) = (due for due in rejudge(report) if due.name == "attacks")
    assert check.verdict == "inconclusive"
    some = to_report(replace(result, fits=(ended[0], result.fits[1])))
    assert not [due for due in rejudge(some) if due.name == "attacks"]


def test_headline_tells_of_copy_only_where_it_hits():
    assert not any("copy" in line for line in headline(make_result(hits={**HITS, "copy": 0})))
    (line,) = (h for h in headline(make_result(hits={**HITS, "copy": 7})) if "copy" in h)
    assert line.startswith("copy, which never queries the model, gets 7 of 200")


def test_the_summary_is_one_line():
    assert to_report(make_result()).summary == (
        "31 of 200 samples extracted (12 by the prefix alone; 0 of 100 controls)"
    )
    assert to_report(make_result(hits={"copy": 5})).summary == "No attack on the model was run"


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
