"""What of the data gets into a run: columns named by the user, recognizers, listed secrets."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import build_model, build_tokenizer, save_model
from typer.testing import CliRunner, Result

from memaudit.cli.app import app
from memaudit.report.columns import SAMPLE_COLUMNS

PLAIN = ["--attacks", "none", "--prefix-tokens", "8", "--suffix-tokens", "37", "--device", "cpu"]
Scan = Callable[..., Result]
SECRET = "Norvaleson 4711"


def records() -> list[dict[str, Any]]:
    """Twelve records of different words, each with an agent's address and a note."""
    return [
        {
            "id": f"c{n}" if n else "ann@example.org",
            "text": f"{n * 7919:05} x wrote, badge B-{10000 + n}, to {SECRET} at noon",
            "agent": f"agent{n}@example.org" if n < 5 else "nobody",
            "note": f"private note {n}",
            "dup": n,
        }
        for n in range(12)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m") / "model"
    return save_model(build_model("gpt2"), build_tokenizer(), folder)


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> Scan:
    monkeypatch.chdir(tmp_path)
    lines = "".join(json.dumps(record) + "\n" for record in records())
    Path("data.jsonl").write_text(lines, encoding="utf-8")

    def run(*words: object, out: str = "run") -> Result:
        given = ["scan", model, "data.jsonl", *PLAIN, "--out", out, *words]
        return CliRunner().invoke(app, [str(word) for word in given])

    return run


def table(name: str = "samples.csv") -> list[dict[str, str]]:
    with Path("run", name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def report() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path("run/report.json").read_text())
    return content


def files() -> str:
    """All that the run wrote."""
    paths = [Path(folder, name) for folder, _, names in os.walk("run") for name in names]
    return "\n".join(path.read_bytes().decode("latin-1") for path in paths)


def test_no_column_is_kept_unless_it_is_named(scan: Scan) -> None:
    done = scan()
    assert done.exit_code == 0, done.stderr
    assert tuple(table()[0]) == (*SAMPLE_COLUMNS, "dup")  # how often a text was trained on
    written = files() + done.stdout + done.stderr
    assert not any(text in written for text in ("agent", "nobody", "private note"))
    notes = [note for note in report()["notes"] if note.startswith("Column")]
    assert notes == [
        "Column id of data.jsonl: e-mail addresses in 1 of 12 rows; it stands in samples.csv and "
        "windows.csv."
    ]


def test_a_named_column_is_kept_and_searched(scan: Scan) -> None:
    done = scan("--keep-columns", "agent,dup")
    assert done.exit_code == 0, done.stderr
    assert [row["agent"] for row in table()][4:6] == ["agent4@example.org", "nobody"]
    assert [row["dup"] for row in table("windows.csv")][:2] == ["0", "1"]
    assert "private note" not in files()
    assert (
        "Column agent of data.jsonl: e-mail addresses in 5 of 12 rows; it stands in samples.csv "
        "and windows.csv."
    ) in report()["notes"]
    shown = " ".join(done.stdout.split())
    assert "Column agent of data.jsonl: e-mail addresses in 5 of 12 rows" in shown
    assert CliRunner().invoke(app, ["verify", "run"]).exit_code == 0


@pytest.mark.parametrize("name", ["text", "agnet", "id"])
def test_an_unknown_column_is_refused_with_those_that_there_are(scan: Scan, name: str) -> None:
    done = scan("--keep-columns", f"note,{name}")
    assert done.exit_code == 2
    assert f"--keep-columns {name}: no such column; choose from agent, note, dup" in done.stderr
    assert not Path("run/report.json").exists()


def test_a_name_that_few_records_have_is_not_quoted(scan: Scan) -> None:
    lines = [json.dumps(record | {f"Jorun {n}": 1}) for n, record in enumerate(records())]
    Path("data.jsonl").write_text("\n".join(lines) + "\n")
    done = scan("--keep-columns", "x")
    assert done.exit_code == 2
    assert "choose from agent, note, dup\n" in done.stderr


RECOGNIZERS = r"""
recognizers:
- name: badge
  supported_entity: BADGE
  patterns: [{name: form, regex: 'B-\d{5}', score: 0.9}]
"""


def test_recognizers_and_secrets_are_searched_and_shown_nowhere(scan: Scan) -> None:
    Path("own.yaml").write_text(RECOGNIZERS)
    Path("secrets.csv").write_text(f'value,category\n"{SECRET}",client\nHilde Jorunsdottir,\n')
    done = scan("--recognizers", "own.yaml", "--secrets", "secrets.csv", "--verbose")
    assert done.exit_code == 0, done.stderr
    section = report()["sensitive"]
    counts = {leak["category"]: leak["samples"] for leak in section["data"]}
    assert counts["client"] == counts["badge"] == 12
    assert counts["secrets"] == 0
    titles = {leak["category"]: leak["title"] for leak in section["data"]}
    assert (titles["badge"], titles["client"]) == ("badges", "clients")
    methods = {part["category"]: part["method"] for part in section["looked_for"]}
    assert methods["badge"] == "badge of own.yaml"
    assert methods["client"].startswith("exact strings: 1 of secrets.csv (HMAC-SHA256 ")
    assert "client:1" in table()[0]["categories"]
    everything = files() + done.stdout + done.stderr
    assert not any(secret in everything for secret in (SECRET, "Norvaleson", "Jorunsdottir"))
    assert CliRunner().invoke(app, ["report", "run"]).exit_code == 0


@pytest.mark.parametrize(
    ("flag", "content", "message"),
    [
        ("--secrets", f"{SECRET}\nabc\n", "--secrets own:2: shorter than 4 characters"),
        ("--recognizers", "recognizers: [{nmae: x}]", "recognizer 1: 'nmae' is not understood"),
    ],
)
def test_bad_files_end_before_the_model_is_loaded(
    scan: Scan, flag: str, content: str, message: str
) -> None:
    Path("own").write_text(content)
    done = scan(flag, "own", "--verbose")
    assert done.exit_code == 2
    assert message in done.stderr
    assert SECRET not in done.stderr
    assert "loading the model" not in done.stderr
    off = scan(flag, "own", "--set", "sensitive.enabled=false")
    assert off.exit_code == 2
    assert "enabled = false leaves recognizers and secrets unused" in off.stderr


def test_a_pattern_that_takes_too_long_ends_the_scan_in_one_sentence(
    scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memaudit.sensitive.patterns._SECONDS", 0.2)
    Path("own.yaml").write_text(RECOGNIZERS.replace(r"B-\d{5}", "(?:(?:a|aa)+c?)+d"))
    lines = [json.dumps(record | {"text": "a" * 200}) for record in records()]
    Path("data.jsonl").write_text("\n".join(lines))
    done = scan("--recognizers", "own.yaml")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith(
        "memaudit: error: badge: pattern form takes too long on this text; write it so that"
    )
