"""Whole logs compared, and against the published schema."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft4Validator
from made_result import make_result, make_windows
from markdown_it import MarkdownIt
from small_run import expected, small_run
from stored import edited, read_back

from memaudit.report import sarif_log
from memaudit.report.model import Report
from memaudit.report.sarif_log import FINGERPRINT, to_sarif

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "sarif-2.1.0.json").read_text("utf-8"))

WHOLE = expected("log.sarif")


def results(report: Report, samples: pd.DataFrame) -> list[dict[str, Any]]:
    log = json.loads(to_sarif(report, samples))
    Draft4Validator(SCHEMA).validate(log)
    found: list[dict[str, Any]] = log["runs"][0]["results"]
    return found


def uris(report: Report, samples: pd.DataFrame) -> list[str]:
    places = [one["locations"][0]["physicalLocation"] for one in results(report, samples)]
    return [place["artifactLocation"]["uri"] for place in places]


def prints(report: Report, samples: pd.DataFrame) -> list[str]:
    return [one["partialFingerprints"][FINGERPRINT] for one in results(report, samples)]


def test_a_whole_log():
    assert to_sarif(*small_run()) == WHOLE


def test_the_schema_is_the_published_one_and_bites():
    Draft4Validator.check_schema(SCHEMA)
    log = json.loads(WHOLE)
    Draft4Validator(SCHEMA).validate(log)
    log["runs"][0]["results"][0]["level"] = "fatal"
    assert not Draft4Validator(SCHEMA).is_valid(log)


def test_every_result_has_a_rule_that_says_what_to_do():
    (run,) = json.loads(WHOLE)["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["extracted-by-prefix", "extracted-by-prompt"]
    assert {rules[each["ruleIndex"]]["id"] == each["ruleId"] for each in run["results"]} == {True}
    for rule in rules:
        assert len(rule["shortDescription"]["text"]) <= 80
        for part in ("shortDescription", "fullDescription"):
            assert rule[part]["text"].endswith(".")  # a sentence (SARIF 2.1.0, 3.49.9)
            assert rule[part]["text"].count(".") == 1
        assert rule["fullDescription"]["text"] in rule["help"]["text"]
        shown = MarkdownIt("commonmark").render(rule["help"]["markdown"])
        assert shown.count("<li>") == 3
        assert "memaudit compare" in rule["help"]["text"]
        assert "helpUri" not in rule  # no page of this project is on the web


@pytest.mark.parametrize("hits", [{"none": 0, "dynamic": 0}, {"copy": 3}])
def test_nothing_extracted_is_an_empty_list_of_results(hits):
    assert results(*read_back(make_result(n=5, hits=hits))) == []


def test_no_audited_text_even_where_it_was_revealed():
    assert "secret" not in to_sarif(*small_run(reveal=["secret"]))


def test_windows_of_one_sample_are_one_result():
    windows = make_windows(6, ids=["a", "a", "a", "b", "b", "c"])
    windows = replace(
        windows,
        line=np.array([1, 1, 1, 2, 2, 3]),
        window=np.array([0, 1, 2, 0, 1, 0]),
        sample=np.array([0, 0, 0, 1, 1, 2]),
    )
    first, second = results(*read_back(make_result(data=windows, hits={"none": 2, "dynamic": 4})))
    assert first["message"]["text"] == (
        "Sample a comes out word for word. Extracted by prefix only, dynamic (3 windows: 0, 1, 2)."
    )
    assert second["message"]["text"] == (
        "Sample b comes out word for word. Extracted by dynamic (1 window: 0)."
    )
    assert (first["ruleId"], second["ruleId"]) == ("extracted-by-prefix", "extracted-by-prompt")


def test_a_sample_is_known_again_where_its_line_has_moved():
    windows = make_windows(4, ids=["a", "b", "a", "c"])
    before = prints(*read_back(make_result(data=windows, hits={"none": 4})))
    moved = replace(windows, line=windows.line + 100)
    assert prints(*read_back(make_result(data=moved, hits={"none": 4}))) == before
    assert len(set(before)) == 4  # also where two records share an id


def test_more_results_than_may_be_uploaded_are_left_out_and_it_is_said(monkeypatch):
    monkeypatch.setattr(sarif_log, "MOST_RESULTS", 3)
    log = json.loads(to_sarif(*read_back(make_result(n=10, hits={"none": 5}))))
    Draft4Validator(SCHEMA).validate(log)
    run = log["runs"][0]
    assert len(run["results"]) == 3
    assert run["properties"]["extractedSamples"] == 5
    (said,) = run["invocations"][0]["toolExecutionNotifications"]
    assert said["message"]["text"].startswith("Only the worst 3 of 5 extracted samples are listed")


def test_the_limit_is_that_of_code_scanning():
    assert sarif_log.MOST_RESULTS == 25_000


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("data/a b#1.jsonl", "data/a%20b%231.jsonl"),
        ("/srv/x.jsonl.gz", "file:///srv/x.jsonl.gz"),
        ("../x.csv", "../x.csv"),
        ("DATA.JSONL", "DATA.JSONL"),
        ("texts", "texts/sub/a%3Cb.txt"),
    ],
)
def test_a_result_points_at_the_data_file(path, uri):
    data = make_windows(1, ids=["sub/a<b.txt"])
    report, samples = read_back(make_result(data=data, hits={"none": 1}))
    report = edited(report, lambda d: d["data"].update(path=path))
    assert uris(report, samples) == [uri]


@pytest.mark.parametrize("name", ["/etc/passwd", "../../etc/passwd", "./etc//passwd"])
def test_no_result_points_out_of_the_folder(name):
    data = make_windows(1, ids=[name])
    report, samples = read_back(make_result(data=data, hits={"none": 1}))
    report = edited(report, lambda d: d["data"].update(path="texts"))
    assert uris(report, samples) == ["texts/etc/passwd"]


def test_a_line_that_is_none_is_no_region():
    report, samples = read_back(make_result(n=1, hits={"none": 1}))
    samples["line"] = -5
    (one,) = results(report, samples)
    assert "region" not in one["locations"][0]["physicalLocation"]


def test_an_id_is_neither_a_link_nor_a_placeholder():
    data = make_windows(1, ids=["[x](http://a) {0} \\"])
    (one,) = results(*read_back(make_result(data=data, hits={"none": 1})))
    assert r"\[x\](http://a) {{0}} \\" in one["message"]["text"]
