"""The page as text: what it holds, and what it must not hold. A browser opens it elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import numpy as np
import pytest
from made_result import HITS, make_result, make_windows
from small_run import HOSTILE, small_result, small_run
from stored import edited, read_back

from memaudit.config.settings import LADDER
from memaudit.report.charts import group_cards
from memaudit.report.page import MOST_WINDOWS, to_html
from memaudit.report.sections import worst_windows

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest, and keeps what a test asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.tags if "id" in attributes]


RUNS = {
    "whole": lambda: make_result(notes=("A note.",)),
    "hostile": small_result,
    "no controls": lambda: make_result(controls=None),
    "only none": lambda: make_result(hits={"none": 2}, controls=None),
    "only copy": lambda: make_result(hits={"copy": 2}, controls=None),
    "nothing extracted": lambda: make_result(hits=dict.fromkeys(LADDER, 0)),
    "one window": lambda: make_result(n=1, hits={"none": 1}, controls=None),
    "revealed": lambda: make_result(reveal=["whispered <b>text</b>"]),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_page_is_well_formed_and_whole(name):
    text = to_html(*read_back(RUNS[name]()))
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert len(page.ids()) == len(set(page.ids()))
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert {str(link).removeprefix("#") for link in links} <= set(page.ids())
    assert ("whispered" in text) == (name == "revealed")


def test_the_same_run_gives_the_same_bytes():
    assert to_html(*small_run()) == to_html(*small_run())


def test_nothing_from_outside_becomes_markup():
    def change(document):
        hostile = "\"><script>alert('x')</script>\x1b\u202e"
        document["target"]["name"] = document["command"] = hostile
        document["config"]["sources"]["model"] = "<svg onload=alert(1)>"
        document["config"]["values"]["<b>"] = {"<i>": ["<u>"]}

    report, samples = small_run(reveal=["</td><img src=x onerror=alert(1)>"])
    samples = samples.rename(columns={"<i>kind": "<img src=x>"})
    text = to_html(edited(report, change), samples)
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"img", "b", "i", "u", "iframe"}
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert "\x1b" not in text
    assert "\u202e" not in text
    for name in HOSTILE:
        shown = name.replace("\x1b", r"\x1b").replace("\n", r"\n")
        assert shown in "".join(page.text)


def test_the_page_may_fetch_nothing_and_run_its_own_script_alone():
    text = to_html(*small_run())
    page = Page(text)
    (policy,) = [a["content"] for _, a in page.tags if "http-equiv" in a]
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert not [a for _, attributes in page.tags for a in attributes if a in ("src", "srcset")]
    assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "form", "base"}
    outside = [
        a["href"] for tag, a in page.tags if tag == "a" and not str(a["href"]).startswith("#")
    ]
    assert outside == []
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_headings_verdict_and_every_part_a_reviewer_needs():
    text = "".join(Page(to_html(*small_run())).text)
    for part in (
        "This run fails max-exact 10 %: dynamic extracted 2 of 4 samples (50 %)",
        "controls, text that the model has not seen, the same attacks extract",
        *("How much is extracted", "How far extraction gets", "How much sampling extracts"),
        *("How dynamic was fitted", "Provenance", "Settings", "Limits"),
        *("A *note* with <b> & \\x1b[31m.", "12 tokens, the window needs 100", "cdcdcd"),
        "This is not a finding of anonymity or of compliance with any law or policy.",
    ):
        assert part in text, part


def test_every_plot_stands_beside_its_figures():
    page = Page(to_html(*read_back(make_result())))
    plots = [a for tag, a in page.tags if tag == "svg"]
    assert len(plots) == [tag for tag, _ in page.tags].count("details") >= 5
    assert all(plot["aria-hidden"] == "true" for plot in plots)
    described = [a for tag, a in page.tags if a.get("role") == "img"]
    assert len(described) == len(plots)
    assert all(one["aria-label"] for one in described)


def test_a_hundred_thousand_windows_are_cut_and_it_is_said():
    data = make_windows(100_000, extra={"dup": "3"})
    document, samples = read_back(make_result(data=data, hits={"none": 60_000}))
    (table,) = worst_windows(document, samples, MOST_WINDOWS, page=True)
    assert len(table.rows) == MOST_WINDOWS
    assert table.says.startswith("The worst 1,000 windows of 100,000.")
    assert len(to_html(document, samples)) < 2_000_000


def test_controls_that_come_out_stand_in_the_table():
    document, samples = read_back(make_result(n=10, hits={"none": 1}, controls={"none": 3}))
    (table,) = worst_windows(document, samples, 9, page=True)
    roles = [row[3] for row in table.rows]
    assert roles.count("control") == 3
    assert "and 3 extracted controls" in table.says


def cards(values: list[str]) -> Iterator[tuple[str, bool, list[list[str]]]]:
    n = len(values)
    document, samples = read_back(make_result(n=n, hits={"none": n // 2}, controls=None))
    samples["column"] = [*values]
    for card in group_cards(document, samples):
        table = card.table
        yield table.title, bool(card.plot), [list(map(str, row)) for row in table.rows]


def test_the_axis_of_a_column_has_its_name():
    document, samples = read_back(make_result(n=6, hits={"none": 3}, controls=None))
    samples["repetitions"] = ["1", "2"] * 3
    (card,) = group_cards(document, samples)
    assert ">repetitions</text>" in card.plot
    assert ">column-0<" not in card.plot


def test_rates_by_the_numbers_of_a_column():
    (card,) = cards(["1", "2", "2", "10", "", "10"])
    assert card == (
        "By column",
        True,
        [
            ["1", "1", "1 (100 %)", "2.5–100 %"],
            ["2", "2", "2 (100 %)", "15.8–100 %"],
            ["10", "2", "0 (0 %)", "at most 84.2 %"],
            ["(none)", "1", "0 (0 %)", "at most 97.5 %"],
        ],
    )


def test_long_numbers_keep_their_last_digits():
    (card,) = cards(["20240101", "20240102", "0.1", "2024.5"])
    assert [row[0] for row in card[2]] == ["0.1", "2024.5", "20240101", "20240102"]


def test_many_numbers_are_cut_into_ranges_that_hold_every_window():
    (card,) = cards([str(n) for n in range(100)])
    _, plot, rows = card
    assert plot
    assert len(rows) == 8
    assert rows[0][0] == "0 to 12"
    assert rows[1][0] == "over 12 to 24"
    assert sum(int(row[1]) for row in rows) == 100


def test_words_are_grouped_without_a_plot():
    (card,) = cards(["b", "a", "b", "b"])
    assert card[1] is False
    assert [row[:2] for row in card[2]] == [["a", "1"], ["b", "3"]]


@pytest.mark.parametrize(
    "values", [["x"] * 5, [""] * 5, [f"u{n}" for n in range(50)], ["1"] * 3, ["1"]]
)
def test_a_column_that_groups_nothing_has_no_card(values):
    assert list(cards(values)) == []


@pytest.mark.parametrize("odd", ["inf", "nan", "1e999", "0x10", "١", "$x^2$"])
def test_odd_numbers_are_words(odd):
    for card in cards(["1", odd, odd, "1"]):
        assert {row[1] for row in card[2]} == {"2"}


def test_figures_that_are_missing_leave_a_page():
    def change(document):
        for attack in document["attacks"]:
            attack["extracted"]["estimate"] = attack["fractional"]["estimate"] = None
            attack["extracted"]["interval"].update(low=None, high=None)
            for fit in attack["fits"]:
                fit["epochs"] = []
        document["config"]["values"] = {}

    report, samples = read_back(make_result(hits={**HITS}))
    samples["log_p_z_none"] = np.nan
    Page(to_html(edited(report, change), samples))


@pytest.mark.parametrize("tokens", [0, 10**17])
def test_a_report_may_say_anything_and_still_be_drawn(tokens):
    def change(document):
        fit = document["attacks"][-1]["fits"][0]
        fit["epochs"][1].update(epoch=10**17, loss=1e308, select_nll=-1e308)
        document["attacks"][0]["exact"]["interval"].update(low=-1e300, high=1e300)
        document["data"]["suffix_tokens"] = tokens

    report, samples = read_back(make_result())
    Page(to_html(edited(report, change), samples))
