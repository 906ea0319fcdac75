"""Whole summaries compared: what is compared is what a step shows."""

from __future__ import annotations

import re

import pytest
from made_result import make_result, make_windows
from markdown_it import MarkdownIt
from small_run import expected, small_run
from stored import read_back

from memaudit.data.samples import Skipped
from memaudit.report.markdown import MOST_BYTES, to_markdown

WHOLE = expected("summary.md")


def test_a_whole_summary():
    assert to_markdown(*small_run()) == WHOLE


def html(text: str) -> str:
    """As GitHub's Markdown makes it, but for what it does to bare addresses."""
    return str(MarkdownIt("commonmark", {"html": True}).enable(["table"]).render(text))


def test_nothing_from_outside_becomes_markup():
    shown = html(to_markdown(*small_run()))
    tags = set(re.findall(r"<(/?[a-z0-9]+)", shown))
    assert not tags & {"a", "b", "i", "em", "script", "img"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "=cmd()|*x*" in shown  # the cell holds its bar
    assert "@me" not in shown
    assert "http://" not in shown
    rows = [line for line in shown.splitlines() if line.startswith("<tr>")]
    assert len(rows) == len(re.findall(r"<tr>", shown))


@pytest.mark.parametrize("start", ["- a", "+ a", "1. a", "2) a", "    a"])
def test_each_sentence_of_the_finding_is_an_item_however_it_begins(start):
    report, samples = small_run()
    changed = report.model_copy(update={"headline": (start, "b")})
    text = html(to_markdown(changed, samples))
    assert f"<ul>\n<li>{start.strip()}</li>\n<li>b</li>\n</ul>" in text


def test_without_a_gate_and_without_a_hit():
    document, samples = read_back(make_result(n=3, hits={"none": 0}, controls=None))
    text = to_markdown(document, samples)
    assert text.startswith("## ℹ️ memaudit: tb7m\n\n**No limit was set")
    assert "### Closest to being extracted" in text
    assert "| gate |" not in text


def test_only_copy_ran():
    document, samples = read_back(make_result(n=3, hits={"copy": 2}, controls=None))
    titles = [line for line in to_markdown(document, samples).splitlines() if "###" in line]
    assert titles == ["### Attacks, weakest first"]


def test_no_audited_text_even_where_it_was_revealed():
    assert "secret" not in to_markdown(*small_run(reveal=["secret"]))


def test_a_summary_is_never_larger_than_a_step_may_have():
    skipped = [Skipped(str(n), n, f"{chr(97 + n % 26) * 900} {n // 26 * 'x'}") for n in range(3000)]
    data = make_windows(30, ids=["y" * 5000] * 30, skipped=skipped)
    text = to_markdown(*read_back(make_result(data=data, hits={"none": 30})))
    assert len(text.encode()) <= MOST_BYTES < 1 << 20
    assert text.endswith("See report.json and windows.csv.\n")
    assert "y" * 201 not in text
