"""``compare`` as Markdown for a pull request and as JUnit XML, read by parsers of others."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import xmlschema
from made_result import KEY, make_result, make_windows
from markdown_it import MarkdownIt
from stored import store
from typer.testing import CliRunner, Result

from memaudit.cli.app import app
from memaudit.report.result import ScanResult

Run = Callable[..., Result]
SCHEMA = xmlschema.XMLSchema(str(Path(__file__).parents[1] / "report" / "schemas" / "junit-10.xsd"))
CODES = {"same": 0, "hardly": 4, "worse": 1}


def result(none: int) -> ScanResult:
    """200 samples of which ``none`` extracts the first so many; the model's name is hostile."""
    made = make_result(hits={"none": none}, data=make_windows(200, ids=["=cmd()", "*x*", "plain"]))
    return replace(made, target=replace(made.target, name="|<b>@me"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMAUDIT_KEY", KEY.secret.hex())
    store(tmp_path / "old", result(2))
    for name, hits in {"same": 2, "worse": 12, "hardly": 4}.items():
        store(tmp_path / name, result(hits))
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize(
    ("name", "tag"), [("same", "system-out"), ("hardly", "error"), ("worse", "failure")]
)
def test_junit_has_one_case_with_the_verdict(run: Run, name: str, tag: str) -> None:
    compared = run("compare", "old", name, "--format", "junit")
    assert compared.exit_code == CODES[name]
    SCHEMA.validate(compared.stdout)
    (suite,) = ET.fromstring(compared.stdout)
    (case,) = suite.findall("testcase")
    assert (case.attrib["name"], [child.tag for child in case]) == ("no regression", [tag])
    assert (suite.attrib["failures"], suite.attrib["errors"]) == (
        str(int(tag == "failure")),
        str(int(tag == "error")),
    )
    properties = {each.attrib["name"]: each.attrib["value"] for each in suite[0]}
    assert properties["newly_extracted"] == {"same": "0", "hardly": "2", "worse": "10"}[name]
    assert properties["model"] == "|<b>@me"


@pytest.mark.parametrize(("name", "sign"), [("same", "✅"), ("hardly", "⚠️"), ("worse", "❌")])
def test_markdown_has_the_verdict_and_whole_tables(run: Run, name: str, sign: str) -> None:
    compared = run("compare", "old", name, "--format", "markdown")
    assert compared.exit_code == CODES[name]
    assert compared.stdout.startswith(f"## {sign} memaudit compare: ")
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table"])
    shown = parser.render(compared.stdout)
    assert shown.count("<table>") == (1 if name == "same" else 2)
    assert "<b>" not in shown
    assert "@me" not in shown
    rows = [line for line in compared.stdout.splitlines() if line.startswith("| none ")]
    assert len(rows) == 1
    if name == "worse":
        assert "Newly extracted: 10 samples in 10 clusters" in shown
        assert "<code>plain</code>" in shown


def test_another_format_is_refused(run: Run) -> None:
    failed = run("compare", "old", "same", "--format", "sarif")
    assert failed.exit_code == 2
    assert failed.stderr == (
        "memaudit: error: --format sarif: choose table, json, markdown or junit\n"
    )
