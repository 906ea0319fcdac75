from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from made_result import HITS, make_result, make_windows
from pydantic import ValidationError
from schema_file import FILE, schema_text
from with_reference import with_reference

from memaudit.config.settings import LADDER, GateSettings, ScanConfig
from memaudit.data.samples import Skipped
from memaudit.report.build import to_report
from memaudit.report.model import Report
from memaudit.report.schema import schema
from memaudit.report.wording import LIMITS, SCHEMA_VERSION

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
RESULTS = {
    "whole": lambda: make_result(gate=GateSettings(max_exact=0.01), notes=("A note.",)),
    "all gates": lambda: make_result(
        hits={"none": 9, "dynamic": 2},
        gate=GateSettings(
            max_exact=0.5, max_fractional=0.5, max_lift=0.5, max_new=1, baseline=Path("b.json")
        ),
    ),
    "no controls": lambda: make_result(controls=None),
    "only none": lambda: make_result(hits={"none": 2}, controls=None),
    "only copy": lambda: make_result(
        hits={"copy": 2}, controls=None, gate=GateSettings(max_exact=0.1)
    ),
    "nothing extracted": lambda: make_result(hits=dict.fromkeys(LADDER, 0)),
    "hostile": lambda: make_result(
        data=make_windows(
            5, ids=["=cmd()", "\x1b[31m", "\n"], skipped=[Skipped("x", 9, "has no \x1b")]
        )
    ),
    "revealed": lambda: make_result(reveal=["secret text"]),
    "fitted earlier": lambda: replace(make_result(), fold_sizes=(), fits=()),
}


def to_text(result):
    return to_report(result).text()


def to_document(result):
    return to_report(result).document()


def test_the_package_holds_the_schema_of_the_model():
    """Where the model changed, write the file anew: ``python tests/support/schema_file.py``."""
    if f"pydantic=={version('pydantic')}\n" not in CONSTRAINTS.read_text(encoding="utf-8"):
        pytest.skip("another pydantic may word the same schema differently")
    assert FILE.read_text(encoding="utf-8") == schema_text()


def test_every_key_of_the_schema_that_needs_words_has_them():
    """Numbers of things are described by the class that they stand in, or by themselves."""
    for name, part in [("Report", schema()), *schema()["$defs"].items()]:
        assert part["description"], name
        assert part["additionalProperties"] is False, name
        assert set(part["required"]) == set(part["properties"]), name


def test_the_schema_is_one():
    Draft202012Validator.check_schema(schema())
    assert (schema()["$id"], schema()["title"]) == ("urn:memaudit:report:1", "memaudit report")
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema()["properties"]["schema_version"]["const"] == SCHEMA_VERSION


@pytest.mark.parametrize("name", RESULTS)
def test_every_document_fits_the_schema(name):
    document = json.loads(to_text(RESULTS[name]()))
    Draft202012Validator(schema()).validate(document)
    assert document == to_document(RESULTS[name]())


def test_the_schema_refuses_what_is_missing_or_unknown():
    document, check = to_document(make_result()), Draft202012Validator(schema())
    for key in document.keys() - {"validity"}:  # which runs of earlier versions lack
        assert not check.is_valid({k: v for k, v in document.items() if k != key}), key
    assert not check.is_valid({**document, "more": 1})


def test_rates_and_their_company():
    document = to_document(make_result())
    dynamic = document["attacks"][-1]
    assert (dynamic["exact"]["k"], dynamic["exact"]["n"]) == (31, 200)
    assert dynamic["exact"]["estimate"] == 31 / 200
    assert dynamic["lift"]["gained"] == HITS["dynamic"] - HITS["none"]
    assert dynamic["controls"]["exact"]["k"] == 0
    assert dynamic["settings"]["num_virtual_tokens"] == 50
    assert document["attacks"][0]["lift"] is None
    assert document["attacks"][1]["suffix_nll"] is None  # copy has no model, so NaN
    assert document["attacks_not_run"] == []
    assert to_document(make_result(hits={"none": 0}))["attacks_not_run"] == list(LADDER[1:])


def test_fits_keep_their_curve_and_choice():
    first, second = to_document(make_result())["attacks"][-1]["fits"]
    assert (first["chosen_epoch"], second["chosen_epoch"]) == (2, None)
    assert second["chosen"] == "no prompt"
    assert [point["loss"] for point in first["epochs"]] == [None, 2.5, 2.1]
    assert first["trainable_parameters"] == 25600


def test_the_corpus_counts_rows_windows_and_skips():
    skipped = [Skipped(str(n), n, f"{n} tokens, the window needs 100") for n in (12, 88)]
    data = to_document(make_result(data=make_windows(5, skipped=skipped)))["data"]
    assert (data["rows"], data["used"], data["windows"]) == (7, 5, 5)
    assert data["skipped"] == [{"reason": "12–88 tokens, the window needs 100", "count": 2}]
    assert data["clusters"] == {
        "count": 5,
        "largest": 1,
        "sizes": [{"samples": 1, "clusters": 5}],
    }
    assert data["scored_by_fold"] == [{"fold": 0, "windows": 3}, {"fold": 1, "windows": 2}]


def test_gates_limits_and_exit_code():
    document = to_document(make_result(gate=GateSettings(max_exact=0.01)))
    assert document["exit_code"] == 1
    assert [gate["verdict"] for gate in document["gates"]] == ["fail", "pass"]
    assert document["limits"] == list(LIMITS)
    judged = RESULTS["only copy"]()
    (gate,) = to_document(judged)["gates"]
    assert (gate["estimate"], gate["verdict"]) == (None, "inconclusive")


def test_the_configuration_can_be_read_back():
    result = make_result()
    values = to_document(result)["config"]["values"]
    assert ScanConfig.model_validate(values) == result.config


def test_no_text_and_no_ids_even_where_revealed():
    text = to_text(RESULTS["revealed"]())
    assert "secret text" not in text
    assert "doc-0001" not in text


def test_the_document_is_ascii_on_a_terminal():
    assert to_text(RESULTS["hostile"]()).isascii()
    assert "\x1b" not in to_text(RESULTS["hostile"]())


def test_a_rate_names_the_method_of_its_clustered_interval() -> None:
    document = to_document(make_result())
    seen = set()
    for attack in document["attacks"]:
        mixed = 0 < attack["exact"]["k"] < attack["exact"]["n"]
        method = attack["exact"]["clustered_interval"]["method"]
        assert ("bootstrap" in method, "exact over clusters" in method) == (mixed, not mixed)
        seen.add(mixed)
    assert seen == {True, False}


def likelihoods(value, *, inside=False):
    """Every mean likelihood of a part of the document."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from likelihoods(
                item, inside=inside or key in ("suffix_nll", "select_nll", "loss")
            )
    elif isinstance(value, list):
        for item in value:
            yield from likelihoods(item, inside=inside)
    elif inside and isinstance(value, float):
        yield value


@pytest.mark.parametrize(("windows", "digits"), [(200, 3), (9, 2)])
def test_mean_likelihoods_have_few_digits(windows, digits):
    """A mean of n windows and one of n - 1 would give the last one away."""
    result = make_result(n=windows, hits={"none": 3, "dynamic": 5})
    if windows == 200:
        result = with_reference(make_result(), HITS)
    document = to_document(result)
    parts = [document["attacks"], document["reference"]]
    shown = [value for part in parts for value in likelihoods(part)]
    assert len(shown) > 5
    assert [value for value in shown if value != float(f"{value:.{digits}g}")] == []


def test_beside_the_text_mean_likelihoods_have_all_digits():
    document = to_document(make_result(reveal=["text"]))
    assert any(value != float(f"{value:.6g}") for value in likelihoods(document["attacks"]))


def test_numbers_are_read_as_they_are_written():
    document = to_document(make_result(gate=GateSettings(max_exact=0.01)))
    for threshold in (1, 1.0, None):
        document["gates"][0]["threshold"] = threshold
        again = Report.model_validate(document)
        assert json.dumps(again.document()) == json.dumps(document)
        assert again == Report.model_validate(document)
    for wrong in (True, "1", float("inf")):
        document["attacks"][0]["exact"]["k"] = wrong
        with pytest.raises(ValidationError, match=r"attacks\.0\.exact\.k"):
            Report.model_validate(document)


def test_of_many_faults_in_a_list_one_is_reported():
    document = to_document(make_result())
    faults: list[dict[str, Any]] = [
        {"attacks": [5] * 1000},
        {"config": {"values": {"a": [[], []]}}},
    ]
    for faulty in faults:
        with pytest.raises(ValidationError) as refused:
            Report.model_validate({**document, **faulty})
        assert refused.value.error_count() < 3
