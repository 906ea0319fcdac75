"""What kind of thing leaked: counts by attack, in the document, the table and the samples."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jsonschema import Draft202012Validator
from made_result import make_result
from stored import store

from memaudit.config.settings import LADDER
from memaudit.report.blocks import Table
from memaudit.report.build import to_report
from memaudit.report.leaks import SCOPE, count_leaks, leaks, named_counts, sensitive_section
from memaudit.report.markdown import to_markdown
from memaudit.report.model import Leak, Sensitive
from memaudit.report.page import to_html
from memaudit.report.result import ScanResult
from memaudit.report.schema import schema
from memaudit.report.sections import leaks as leak_tables
from memaudit.report.tables import iter_windows
from memaudit.report.terminal import render_blocks
from memaudit.run.load import read_run
from memaudit.score.samples import Grouping
from memaudit.sensitive.counting import Items, SensitiveContent
from memaudit.sensitive.detectors import Category

METHODS: dict[Category, str] = {"email": "form of the address", "phone": "form: international"}
MISSING: dict[Category, str] = {"name": "no rule tells names from other words"}


def holding(hits: dict[str, int], *, controls: bool = True) -> ScanResult:
    """200 windows: of the first 20, each has an address; window 12 has three phone numbers."""
    result = make_result(hits=hits, controls={} if controls else None)
    data = np.zeros((200, 2), dtype=np.uint16)
    data[:20, 0], data[12, 1] = 1, 3
    part = np.zeros((100, 2), dtype=np.uint16)
    part[0, 0] = 1
    found = SensitiveContent(
        METHODS, MISSING, Items(data, data), Items(part, part) if controls else None
    )
    return replace(result, sensitive=found)


HITS = {"none": 12, "copy": 50, "dynamic": 13}

SECTION: dict[str, Any] = {
    "scope": SCOPE,
    "looked_for": [
        {"category": "email", "method": "form of the address"},
        {"category": "phone", "method": "form: international"},
    ],
    "not_looked_for": [{"category": "name", "reason": "no rule tells names from other words"}],
    "data": [
        {
            "category": "email",
            "title": "e-mail addresses",
            "samples": 20,
            "windows": 20,
            "found": 20,
            "extracted": 13,  # copy, which asks no model, does not count
            "extracted_by": {"none": 12, "copy": 20, "dynamic": 13},
            "leaked": None,
        },
        {
            "category": "phone",
            "title": "phone numbers",
            "samples": 1,
            "windows": 1,
            "found": 3,
            "extracted": 1,
            "extracted_by": {"none": 0, "copy": 1, "dynamic": 1},
            "leaked": None,
        },
    ],
    "controls": [
        {
            "category": "email",
            "title": "e-mail addresses",
            "samples": 1,
            "windows": 1,
            "found": 1,
            "extracted": 0,
            "extracted_by": {"none": 0, "copy": 0, "dynamic": 0},
            "leaked": None,
        },
        {
            "category": "phone",
            "title": "phone numbers",
            "samples": 0,
            "windows": 0,
            "found": 0,
            "extracted": 0,
            "extracted_by": {"none": 0, "copy": 0, "dynamic": 0},
            "leaked": None,
        },
    ],
}

TABLE = """\
Sensitive content that comes out, by sample
category          samples  extracted  prefix only  copy  dynamic
────────────────────────────────────────────────────────────────
e-mail addresses       20         13           12    20       13
phone numbers           1          1            0     1        1
samples: those with an item of the category in a suffix that its prompt does not
hold. extracted: of them, by at least one attack on the model; then by each.
Not searched: names.
"""


def test_the_section_of_the_document() -> None:
    result = holding(HITS)
    document = to_report(result).document()
    Draft202012Validator(schema()).validate(document)
    assert document["sensitive"] == SECTION
    assert sensitive_section(make_result()) is None
    assert to_report(make_result()).sensitive is None


def test_without_controls_and_with_copy_alone() -> None:
    alone = holding({"copy": 20}, controls=False)
    section = sensitive_section(alone)
    assert section is not None
    assert section.controls is None
    assert [leak.extracted for leak in leaks(alone)] == [0, 0]


def test_samples_are_counted_and_template_alone_is_not_extracted() -> None:
    """Windows of three samples, all with an address: two, two of template alone, two."""
    groups = Grouping(
        sample=np.array([0, 0, 1, 1, 2, 2]),
        new_tokens=np.full(6, 4),
        is_own=np.array([1, 1, 0, 0, 1, 0], dtype=bool),
        clusters=np.arange(3),
    )
    items = np.array([[1], [2], [1], [1], [0], [1]], dtype=np.uint16)
    mask = lambda *rows: np.isin(np.arange(6), rows)  # noqa: E731
    count = partial(count_leaks, ("email",), items, groups)

    def figures(leak: Leak) -> tuple[int | None, ...]:
        by = leak.extracted_by
        return leak.samples, leak.windows, leak.found, leak.extracted, by["none"], leak.leaked

    (both,) = count({"none": mask(0, 1), "copy": mask(2)}, None)
    assert figures(both) == (3, 5, 6, 1, 1, None)
    # Template alone, and the window of the third sample without an address, are no leak.
    (nothing,) = count({"none": mask(2, 3, 4, 5)}, [mask()])
    assert figures(nothing) == (3, 5, 6, 0, 0, 0)
    (known,) = count({"none": mask(0)}, [mask(1)])  # another window of the sample, known before
    assert figures(known) == (3, 5, 6, 1, 1, 0)


def tables(section: Sensitive | None) -> list[Table]:
    return leak_tables(to_report(make_result()).model_copy(update={"sensitive": section}))


def shown(section: Sensitive | None, width: int) -> str:
    return render_blocks(tables(section), width=width, color=False)


def test_the_table() -> None:
    assert shown(Sensitive.model_validate(SECTION), 80) == TABLE


def test_no_table_where_there_is_nothing_to_show() -> None:
    nothing = [{**leak, "samples": 0} for leak in SECTION["data"]]
    assert tables(Sensitive.model_validate({**SECTION, "data": nothing})) == []
    assert tables(None) == []


def test_five_attacks_fit_into_80_columns() -> None:
    section = sensitive_section(holding(dict.fromkeys(LADDER, 200)))
    lines = shown(section, 80).splitlines()
    assert max(map(len, lines)) <= 80
    heads = ["category", "samples", "extracted", "only", "copy", "hard", "constant", "dynamic"]
    assert lines[1].split() == ["prefix", "dynamic-"]
    assert lines[2].split() == heads
    assert lines[4].split() == ["e-mail", "addresses", *["20"] * 7]


def test_counts_in_the_millions_are_not_cut() -> None:
    section = sensitive_section(holding(dict.fromkeys(LADDER, 200)))
    assert section is not None
    many = {
        "samples": 1_234_567,
        "extracted": 1_234_567,
        "extracted_by": dict.fromkeys(LADDER, 1_234_567),
    }
    leaked = tuple(leak.model_copy(update=many) for leak in section.data)
    lines = shown(section.model_copy(update={"data": leaked}), 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert sum(line.split().count("1234567") for line in lines) == 14


def test_the_column_of_the_samples() -> None:
    rows = list(csv.DictReader(io.StringIO("".join(iter_windows(holding(HITS))), newline="")))
    shown = [row["categories"] for row in rows]
    assert shown[:14] == [*["email:1"] * 12, "email:1 phone:3", "email:1"]
    assert shown[20:200] == [""] * 180
    assert shown[200:202] == ["email:1", ""]
    assert {row["categories"] for row in csv.DictReader(iter_windows(make_result()))} == {""}


def test_named_counts() -> None:
    assert named_counts(("email", "phone"), np.array([0, 2], dtype=np.uint16)) == "phone:2"
    assert named_counts(("email", "phone"), np.array([0, 0], dtype=np.uint16)) == ""


def test_results_that_differ_in_content_alone_have_another_hash() -> None:
    first = to_report(holding(HITS)).document()
    second = to_report(make_result(hits=HITS, controls={})).document()
    assert first["hashes"]["config"] == second["hashes"]["config"]
    assert first["hashes"]["results"] != second["hashes"]["results"]
    assert json.dumps(first["attacks"]) == json.dumps(second["attacks"])


MARKDOWN = """\
### Sensitive content that comes out, by sample

| category | samples | extracted | prefix only | copy | dynamic |
| --- | --: | --: | --: | --: | --: |
| e-mail addresses | 20 | 13 | 12 | 20 | 13 |
| phone numbers | 1 | 1 | 0 | 1 | 1 |

<sub>samples: those with an item of the category in a suffix that its prompt does not hold. \
extracted: of them, by at least one attack on the model; then by each. Not searched: names.</sub>
"""


def test_markdown_and_page_have_the_table(tmp_path: Path) -> None:
    run = read_run(store(tmp_path / "run", holding(HITS)))
    assert MARKDOWN in to_markdown(run.report, run.windows)
    page = to_html(run.report, run.windows)
    assert '<h3 id="sensitive-title">Sensitive content that comes out, by sample</h3>' in page
    assert '<th scope="row">e-mail addresses</th><td class="number">20</td>' in page
    assert "Not searched: names." in page
    nothing = read_run(store(tmp_path / "nothing", make_result()))
    assert "Sensitive content that" not in to_markdown(nothing.report, nothing.windows)
    assert "Sensitive content that" not in to_html(nothing.report, nothing.windows)


def test_the_page_says_what_was_and_was_not_tested(tmp_path: Path) -> None:
    run = read_run(store(tmp_path / "run", make_result()))
    page = to_html(run.report, run.windows)
    assert '<h2 id="frameworks">What frameworks ask for, and what this run' in page
    words = {"tested": "measured", "partly": "measured in part", "not tested": "not measured"}
    for row in run.report.frameworks:
        assert f"<td>{row.asks}</td><td>{words[row.tested]}</td>" in page
