from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest
from made_result import make_result
from stored import read_back

from memaudit.report.brief import next_steps, sentences, to_brief
from memaudit.report.build import to_report
from memaudit.report.cells import to_parquet
from memaudit.report.model import Report


def report_of(**made: object) -> Report:
    return to_report(make_result(**made))  # type: ignore[arg-type]


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.names.append(tag)


def test_five_answers_one_picture_and_what_to_do_next():
    text = to_brief(report_of())
    tags = Tags(text).names
    assert tags.count("dd") == 5
    assert tags.count("svg") == 1
    assert tags.count("ol") == 1
    assert not {"script", "link", "img", "iframe"} & set(tags)
    assert "default-src 'none'" in text
    assert "a passage of 12 of the 200 samples" in re.sub(r"\s+", " ", text)


def test_a_hostile_name_is_text():
    report = report_of()
    target = report.target.model_copy(update={"name": "<script>alert(1)</script>\x1b[2J"})
    text = to_brief(report.model_copy(update={"target": target}))
    assert "<script>" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("made", "told", "untold"),
    [
        ({}, "Do not release these weights", "Give text that the model has not seen"),
        ({"controls": None}, "Give text that the model has not seen", "Give more controls"),
        ({"hits": {"none": 0}}, "Run the trained prompts too", "Do not release"),
        ({"hits": {"none": 0}}, "Set a limit", "Remove or mask"),
    ],
)
def test_what_to_do_next_follows_from_the_finding(made: dict[str, object], told: str, untold: str):
    steps = " ".join(next_steps(report_of(**made)))
    assert told in steps
    assert untold not in steps


def test_a_void_run_has_no_answer_but_to_mend_it():
    result = make_result()
    gate = replace(result.verdicts[-1], name="validity", verdict="inconclusive", reason="Void.")
    report = to_report(replace(result, verdicts=(gate,)))
    assert sentences(report)[0][1] == "The rates of this run mean nothing. Void."
    assert len(next_steps(report)) == 1


def test_parquet_holds_what_the_table_holds():
    _, windows = read_back(make_result(n=5, hits={"none": 1}))
    again = pd.read_parquet(io.BytesIO(to_parquet(windows)))
    pd.testing.assert_frame_equal(again, windows, check_dtype=False)
