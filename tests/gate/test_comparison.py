from __future__ import annotations

from dataclasses import replace

import pytest

from memaudit.errors import UsageError
from memaudit.gate.baseline import (
    Baseline,
    ModelName,
    count_new,
    make_baseline,
    notes,
    require_comparable,
    updated,
)
from memaudit.gate.comparison import ANY, ChangedSample, Comparison, fewest_changed
from memaudit.gate.comparison import compare as compare_audits
from memaudit.gate.overlap import Overlap
from memaudit.gate.terms import Terms, differences, named

ATTACKS = ["none", "dynamic"]


def terms(**settings: object) -> Terms:
    values = {"attacks": ATTACKS, "samples.prefix_tokens": 50, "dynamic.epochs": 3, **settings}
    return Terms("d" * 64, None, "00000001", "w1", values)  # type: ignore[arg-type]


def audit(n: int = 500, model: str = "a", **extracted: range) -> Baseline:
    """Samples f0, f1, … of which each attack extracts those whose numbers are given."""
    exact = {name: [i in extracted.get(name, ()) for i in range(n)] for name in ATTACKS}
    prints = [f"f{i}" for i in range(n)]
    return make_baseline(ModelName(model, model * 64), "0.1.0", terms(), prints, exact)


def compare(
    before: Baseline, now: Baseline, *, size: int = 1, max_new: int | None = None
) -> Comparison:
    """With ``size`` samples to a cluster."""
    assert now.fingerprints is not None
    clusters = {fingerprint: i // size for i, fingerprint in enumerate(now.fingerprints)}
    return compare_audits(before, now, clusters, confidence=0.95, max_new=max_new)


def outcome(before: Baseline, now: Baseline, max_new: int | None = None) -> tuple[str, int]:
    found = compare(before, now, max_new=max_new)
    return found.outcome, found.exit_code


def test_samples_are_paired_and_counted() -> None:
    before = audit(none=range(10), dynamic=range(20))
    now = audit(none=range(4, 10), dynamic=range(5, 40))
    found = compare(before, now)
    none, dynamic, together = found.changes
    assert (none.attack, none.new, none.lost, none.unchanged, none.neither) == (
        "none",
        0,
        4,
        6,
        490,
    )
    assert (dynamic.attack, dynamic.new, dynamic.lost, dynamic.unchanged) == ("dynamic", 20, 5, 15)
    assert (together.attack, together.new, together.lost, together.unchanged) == (ANY, 20, 4, 16)
    assert (together.before, together.now) == (20, 36)
    assert found.overlap == Overlap(500, 0, 0)
    assert [one.fingerprint for one in found.new] == [f"f{i}" for i in range(20, 40)]
    assert [one.fingerprint for one in found.lost] == ["f0", "f1", "f2", "f3"]
    by_others = [one for one in found.changed if one.before and one.now]
    assert by_others == [ChangedSample("f4", ("none", "dynamic"), ("none",))]


def test_the_p_value_is_mcnemars() -> None:
    # Of 12 discordant pairs 10 went one way: 2 * (1 + 12 + 66) / 2^12, by hand.
    found = compare(audit(none=range(2)), audit(none=range(2, 12)))
    assert found.changes[0].p_value == pytest.approx(2 * 79 / 2**12)
    assert found.changes[0].adjusted == pytest.approx(3 * 2 * 79 / 2**12)
    assert found.changes[1].p_value == found.changes[1].adjusted == 1.0


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (range(0), range(9), ("regression", 1)),
        (range(0), range(6), ("inconclusive", 4)),
        (range(0), range(1), ("inconclusive", 4)),
        (range(9), range(0), ("none", 0)),
        (range(1), range(0), ("none", 0)),
        (range(50), range(50), ("none", 0)),
        (range(0), range(0), ("none", 0)),
        (range(20), range(10, 31), ("none", 0)),  # 11 new and 10 gone: chance
    ],
)
def test_the_verdict(before: range, now: range, said: tuple[str, int]) -> None:
    assert outcome(audit(none=before), audit(none=now)) == said


def test_one_attack_alone_can_be_the_regression() -> None:
    before, now = audit(dynamic=range(20)), audit(none=range(20), dynamic=range(20))
    found = compare(before, now)
    assert (found.outcome, found.new) == ("regression", ())
    assert found.reason == (
        "none: 20 newly extracted, 0 no longer (p = 5.7e-06): significantly more."
    )


def test_a_number_that_is_allowed_decides_where_the_test_cannot() -> None:
    assert outcome(audit(), audit(none=range(3))) == ("inconclusive", 4)
    assert outcome(audit(), audit(none=range(3)), max_new=3) == ("none", 0)
    assert outcome(audit(), audit(none=range(3)), max_new=2) == ("regression", 1)
    # What is significant stays a regression, whatever is allowed.
    assert outcome(audit(), audit(none=range(30)), max_new=100) == ("regression", 1)
    # New ones count, however many went.
    assert outcome(audit(none=range(50)), audit(none=range(50, 60)), max_new=9) == ("regression", 1)


def test_too_few_samples_tell_nothing() -> None:
    assert fewest_changed(1, 0.05) == 6  # 2 / 2^6 = 0.03
    assert fewest_changed(3, 0.05) == 7
    assert outcome(audit(6), audit(6)) == ("inconclusive", 4)
    assert outcome(audit(7), audit(7)) == ("none", 0)
    assert outcome(audit(6), audit(6), max_new=0) == ("none", 0)


def changed(*extracted: str, kept: int = 10, added: int = 5) -> Baseline:
    """Samples f0, f1, …, and g0, g1, … that no baseline has; which of them ``none`` extracts."""
    prints = [*(f"f{i}" for i in range(kept)), *(f"g{i}" for i in range(added))]
    exact = {"none": [name in extracted for name in prints], "dynamic": [False] * len(prints)}
    now = replace(terms(), data="e" * 64)
    return make_baseline(ModelName("b", "b" * 64), "0.1.0", now, prints, exact)


def test_samples_that_were_added_or_removed_are_counted_and_compare_with_nothing() -> None:
    before = audit(12, none=range(8, 12))
    found = compare(before, changed("f8", "f9"), max_new=0)
    assert (found.outcome, found.reason) == (
        "none",
        "0 newly extracted (0 of 10 in both, 0 of 5 added to the data; 2 removed), within the 0 "
        "allowed.",
    )
    assert found.overlap == Overlap(10, 2, 5, extracted_only_baseline=2)
    assert (found.changes[-1].unchanged, found.changes[-1].lost) == (2, 0)
    assert notes(before, found.run) == (
        "The data changed since the baseline: 5 samples added, 2 removed (2 of them extracted "
        "before), 10 in both.",
    )
    # Only samples went, or the file alone is another.
    assert outcome(audit(12), changed(added=0), max_new=0) == ("none", 0)
    same = changed(kept=12, added=0)
    assert notes(audit(12), same) == (
        "The data file changed since the baseline, but its samples are the same.",
    )


def test_a_leak_of_an_added_sample_is_new() -> None:
    found = compare(audit(10), changed("f0", "g0"), max_new=1)
    assert (found.outcome, found.reason) == (
        "regression",
        "2 newly extracted (1 of 10 in both, 1 of 5 added to the data; 0 removed), more than the 1 "
        "allowed.",
    )
    assert [sample.fingerprint for sample in found.new] == ["f0"]
    assert found.new_only_run == (ChangedSample("g0", (), ("none",)),)
    assert outcome(audit(10), changed("f0", "g0"), max_new=2) == ("none", 0)
    # Without a limit nothing says how many are too many, and none may pass in silence.
    assert compare(audit(10), changed()).outcome == "none"
    silent = compare(audit(10), changed("g0"))
    assert (silent.outcome, silent.reason) == (
        "inconclusive",
        "1 newly extracted (0 of 10 in both, 1 of 5 added to the data; 0 removed): no earlier "
        "result can be compared with what was added; set with --max-new how many are too many.",
    )


@pytest.mark.parametrize("max_new", [0, None])
def test_data_that_mostly_changed_pass_nothing(max_new: int | None) -> None:
    before = audit(20, none=range(20))
    half, fewer = changed(kept=10), changed(kept=9)
    assert outcome(before, half, max_new)[0] == "none"
    found = compare(before, fewer, max_new=max_new)
    assert (found.outcome, found.reason) == (
        "inconclusive",
        "Only 9 of the baseline's 20 samples can be compared, fewer than half: most of the data "
        "changed, or the tokenizer or chat template that cuts it; if that is intended, write a new "
        "baseline.",
    )
    other = compare(before, changed("g0", kept=0), max_new=max_new)
    assert other.outcome == "inconclusive"
    assert other.reason.startswith("None of the baseline's 20 samples can be compared")
    leak = compare(before, changed("g0", kept=1), max_new=max_new)
    assert leak.outcome == ("inconclusive" if max_new is None else "regression")


def test_copies_of_one_text_are_one_change() -> None:
    before, now = audit(none=range(0)), audit(none=range(20))
    alone, copies = compare(before, now), compare(before, now, size=20)
    assert (alone.outcome, copies.outcome) == ("regression", "inconclusive")
    change = copies.changes[0]
    assert (change.new, change.worse, change.better) == (20, 1, 0)
    assert change.p_value == pytest.approx(2 / 2**20)
    assert (change.clustered_p_value, change.adjusted) == (1.0, 1.0)
    assert copies.reason == (
        "none: 20 newly extracted, 0 no longer, in 1 cluster (p = 1): too few to "
        "distinguish from chance, which takes 7 clusters; set with --max-new how many are too many."
    )
    # Ten clusters of two are enough, by the test over clusters: 3 * 2 / 2^10.
    pairs = compare(before, now, size=2)
    assert (pairs.outcome, pairs.changes[0].worse) == ("regression", 10)
    assert pairs.changes[0].adjusted == pytest.approx(6 / 2**10)
    assert outcome(before, now, max_new=19) == ("regression", 1)


def test_a_cluster_counts_by_what_most_of_its_samples_do() -> None:
    # By fives: 0-4 come in, 5-9 three in and two out, 10-14 all out, 15-19 one in and one out.
    before = audit(none=[*range(8, 15), 15])  # type: ignore[arg-type]
    now = audit(none=[*range(8), 16])  # type: ignore[arg-type]
    change = compare(before, now, size=5).changes[0]
    assert (change.new, change.lost, change.worse, change.better) == (9, 8, 2, 1)
    assert change.clustered_p_value == 1.0


def test_tests_that_tell_of_opposite_changes_prove_none() -> None:
    # One cluster of 100 comes in, a sample of each of 20 other clusters goes.
    gone = [100 + 100 * i for i in range(20)]
    found = compare(audit(2100, none=gone), audit(2100, none=range(100)), size=100)  # type: ignore[arg-type]
    change = found.changes[0]
    assert max(change.p_value, change.clustered_p_value) < 1e-4
    assert (change.adjusted, found.outcome) == (1.0, "none")


def test_few_clusters_are_inconclusive() -> None:
    found = compare(audit(500), audit(500), size=100)
    assert found.reason == (
        "The samples in both audits are in 5 clusters: with fewer than 7 no change can be "
        "distinguished from chance."
    )
    assert found.outcome == "inconclusive"


def test_a_run_without_an_attack_on_the_model_is_inconclusive() -> None:
    nothing = make_baseline(ModelName("m", "m"), "0", terms(attacks=[]), ["f0"] * 1, {})
    assert outcome(nothing, nothing) == ("inconclusive", 4)
    assert outcome(nothing, nothing, max_new=0) == ("inconclusive", 4)


def test_terms_say_what_differs() -> None:
    one = terms()
    assert differences(one, replace(one, data="e" * 64)) == ()  # its samples are compared
    assert differences(replace(one, controls="d" * 64), replace(one, controls="e" * 64)) == (
        "other controls (hmac-sha256 dddddddd, now eeeeeeee)",
    )
    assert differences(one, terms()) == ()
    other = replace(one, data="e" * 64, controls="f" * 64, key_id="00000002")
    other = replace(other, settings={"attacks": ["none"], "dynamic.epochs": 5, "new": None})
    assert differences(one, other) == (
        "made under another project key (w1 00000001, now w1 00000002): set MEMAUDIT_KEY to the "
        "same key for both",
        # One file goes by another HMAC under another key.
        "other controls (hmac-sha256 none, now ffffffff)",
        "attacks none, dynamic, now none",
        "dynamic.epochs 3, now 5",
        "new not recorded, now null",
        "samples.prefix_tokens 50, now unused",
    )
    more = (*differences(one, other), "one more")
    assert named(more).endswith("; samples.prefix_tokens 50, now unused; and 1 more")
    assert one.attack_hash("dynamic") != terms(**{"dynamic.epochs": 5}).attack_hash("dynamic")
    assert one.attack_hash("none") == terms(**{"dynamic.epochs": 5}).attack_hash("none")
    assert one.config_hash != terms(**{"dynamic.epochs": 5}).config_hash


def test_the_same_data_gives_the_same_samples() -> None:
    before = audit(10)
    require_comparable(before, terms(), [f"f{i}" for i in range(10)], "base.json")
    for other in (["f1"], [f"f{i}" for i in range(11)]):
        with pytest.raises(UsageError, match=r"base\.json: .*probably because the tokenizer"):
            require_comparable(before, terms(), other, "base.json")
        require_comparable(before, replace(terms(), data="e" * 64), other, "base.json")


def test_a_baseline_is_for_its_own_way_with_bos() -> None:
    made = audit(10)
    no, yes = (replace(terms(), bos=bos) for bos in ("no", "yes"))
    before = replace(made, terms=no)
    require_comparable(before, no, made.fingerprints, "base.json")
    require_comparable(made, yes, made.fingerprints, "base.json")  # not recorded
    with pytest.raises(UsageError, match=r"base\.json: .*BOS token before every input no, now yes"):
        require_comparable(before, yes, made.fingerprints, "base.json")


def test_a_baseline_is_for_its_own_chat_date() -> None:
    made = audit(10)
    then, later = (replace(terms(), chat_date=day) for day in ("2024-07-26", "2025-01-31"))
    before = replace(made, terms=then)
    require_comparable(before, then, made.fingerprints, "base.json")
    require_comparable(made, then, made.fingerprints, "base.json")
    with pytest.raises(UsageError, match=r"windows\.chat_date 2024-07-26, now 2025-01-31$"):
        require_comparable(before, later, ["f1"], "base.json")
    with pytest.raises(UsageError, match=r"used another date; it uses 2024-07-26 now"):
        require_comparable(made, then, ["f1"], "base.json")
    assert notes(made, before) == (
        "The chat template used the date 2024-07-26 (windows.chat_date); the baseline records no "
        "date, so its chats may have had different text.",
    )
    assert notes(before, made) == ()


def test_passes_that_fitted_otherwise_are_named() -> None:
    one, other = ({"dtype": "float32", "device": "cpu", "fitting": f} for f in ("float32", "b16"))
    assert notes(replace(audit(1), computed=one), replace(audit(1), computed=other)) == (
        "Prompts fitted in float32, now b16: close calls may differ.",
    )
    assert notes(audit(1), replace(audit(1), computed=one)) == ()


def test_an_update_tightens() -> None:
    before = audit(none=range(10), dynamic=range(20))
    now = audit(model="b", none=range(5, 15), dynamic=range(10, 30))
    after = updated(before, now, looser=False)
    assert after.model == now.model
    assert after.extracted.keys() == {f"f{i}" for i in [*range(5, 10), *range(10, 20)]}
    assert (after.extracted["f5"], after.extracted["f12"]) == (("none",), ("dynamic",))
    assert updated(after, now, looser=False).extracted == after.extracted
    assert count_new(before, now.extracted.keys()) == 10


def test_an_update_takes_over_the_samples_and_accepts_none_of_them() -> None:
    before, now = audit(12, none=range(8, 12)), changed("f9", "g0")
    after = updated(before, now, looser=False)
    assert (after.fingerprints, after.terms) == (now.fingerprints, now.terms)
    assert after.extracted == {"f9": ("none",)}  # 8 is extracted no longer, 10 and 11 went
    assert outcome(after, now, max_new=0) == ("regression", 1)
    accepted = updated(before, now, looser=True)
    assert outcome(accepted, now, max_new=0) == ("none", 0)


def test_an_update_loosens_only_when_told_to() -> None:
    before, now = audit(none=range(10)), audit(none=range(5, 15))
    assert updated(before, now, looser=True).extracted == now.extracted
