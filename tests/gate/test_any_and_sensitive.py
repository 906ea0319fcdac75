"""Gates on all attacks together and on sensitive content: judged, stored, judged again, refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_result import make_result
from quick_scan import memaudit
from stored import seal, store

from memaudit.config.settings import GateSettings
from memaudit.errors import UsageError
from memaudit.gate.thresholds import GateVerdict, SensitiveCount, judge, judge_controls
from memaudit.pipeline.scoring import sensitive_counts
from memaudit.report.ci import to_junit
from memaudit.report.hashes import results_hash
from memaudit.report.result import ScanResult
from memaudit.run.load import read_run
from memaudit.sensitive.counting import Items, SensitiveContent
from memaudit.sensitive.detectors import Category

PHONES = SensitiveCount("phone", "phone numbers", 5, 2)
CARDS = SensitiveCount("card", "payment cards", 0, 0)


def result(**settings: object) -> ScanResult:
    """Samples 10 to 19 of 200 hold a phone number; none extracts 12 samples, dynamic 15."""
    gate = GateSettings.model_validate(settings)
    made = make_result(hits={"none": 12, "copy": 150, "dynamic": 15}, gate=gate)
    data = np.zeros((200, 2), dtype=np.uint16)
    data[10:20, 0] = 2
    controls = np.zeros((100, 2), dtype=np.uint16)
    methods: dict[Category, str] = {"phone": "a rule", "card": "a rule"}
    content = SensitiveContent(methods, {}, Items(data, data), Items(controls, controls))
    counts = sensitive_counts(content, made.data, made.attacks)
    summaries = [attack.summary for attack in made.attacks]
    on_controls = judge_controls(summaries)
    assert on_controls is not None
    verdicts = judge(summaries, gate, together=made.any, sensitive=counts)
    return replace(made, sensitive=content, verdicts=(*verdicts, on_controls))


def judged(**settings: object) -> GateVerdict:
    return result(**settings).verdicts[0]


@pytest.mark.parametrize(
    ("limit", "on", "verdict"),
    [
        (0.07, "upper", "fail"),
        (0.08, "upper", "inconclusive"),
        (0.08, "estimate", "pass"),
        (0.2, "upper", "pass"),
    ],
)
def test_all_attacks_together_are_judged(limit, on, verdict):
    found = judged(max_any=limit, gate_on=on)
    assert (found.name, found.verdict, found.attack) == ("max-any", verdict, "")
    assert found.estimate == 0.075
    assert found.reason.startswith("at least one attack extracted 15 of 200 samples (7.5 %)")


def test_samples_that_give_items_away_are_counted():
    found = judged(max_sensitive=["phone=4"])
    assert found == GateVerdict(
        name="max-sensitive",
        threshold=4.0,
        attack="",
        estimate=0.5,
        bound=found.bound,
        verdict="fail",
        reason="5 of the 10 samples with phone numbers give one away, more than the 4 allowed.",
        category="phone",
    )
    assert judged(max_sensitive=["phone=5"]).verdict == "pass"
    nothing = judged(max_sensitive=["card=0"])
    assert (nothing.verdict, math.isnan(nothing.estimate)) == ("inconclusive", True)
    assert nothing.reason.startswith("No audited suffix holds payment cards that its prompt does")


def test_without_an_attack_on_the_model_neither_passes():
    settings = GateSettings(max_any=0.5, max_sensitive=("phone=9", "card=0"))
    verdicts = judge([], settings, sensitive=[PHONES, CARDS])
    assert [(v.name, v.category, v.verdict) for v in verdicts] == [
        ("max-any", "", "inconclusive"),
        ("max-sensitive", "phone", "inconclusive"),
        ("max-sensitive", "card", "inconclusive"),
    ]


def test_a_stored_run_is_judged_again(tmp_path: Path):
    made = result(max_any=0.07, max_sensitive=["phone=4", "card=0"])
    run = read_run(store(tmp_path / "run", made))
    assert [gate.verdict for gate in run.report.gates] == ["fail", "fail", "inconclusive", "pass"]
    names = to_junit(run.report)
    assert 'name="max-sensitive phone"' in names
    assert 'name="max-sensitive card"' in names
    path = tmp_path / "run" / "report.json"
    whole = path.read_text()
    for place, change in (
        (0, {"verdict": "pass"}),
        (1, {"verdict": "pass"}),
        (1, {"threshold": 9.0}),
        (1, {"category": "card"}),
        (2, {"category": "email"}),
    ):
        document = json.loads(whole)
        document["gates"][place].update(change)
        document["hashes"]["results"] = results_hash(document)
        path.write_text(json.dumps(document))
        seal(tmp_path / "run")
        with pytest.raises(UsageError, match="does not follow from the figures"):
            read_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["phne=0"], "--max-sensitive phne: this run does not search it"),
        (["name=0"], "no rule tells names from other words"),
        (["phone=0", "phone=3"], "names a category twice"),
        (["phone"], "max_sensitive"),
        (["phone=-1"], "max_sensitive"),
        (["phone=0", "off"], "max_sensitive"),
    ],
)
def test_a_limit_that_nothing_is_searched_for_is_refused(
    tmp_path: Path, given: list[str], message: str
) -> None:
    """The model is none: it is not opened before the refusal."""
    words = [word for limit in given for word in ("--max-sensitive", limit)]
    (tmp_path / "model").mkdir()
    (tmp_path / "data.jsonl").write_text('{"text": "words"}')
    ended = memaudit("scan", tmp_path / "model", tmp_path / "data.jsonl", *words)
    assert ended.exit_code == 2, ended.output
    assert message in " ".join(ended.stderr.split())


def test_a_limit_needs_the_search(tmp_path: Path) -> None:
    off = ("--max-sensitive", "phone=0", "--set", "sensitive.enabled=false")
    ended = memaudit("scan", tmp_path / "no-model", tmp_path / "none.jsonl", *off)
    assert ended.exit_code == 2
    assert "max_sensitive is only used with sensitive.enabled" in " ".join(ended.stderr.split())
