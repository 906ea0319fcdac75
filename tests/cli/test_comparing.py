"""The commands compare and baseline as a user meets them, on runs made by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_result import KEY, make_result, make_windows
from stored import store
from typer.testing import CliRunner, Result

from memaudit.cli.app import app
from memaudit.report.result import ScanResult
from memaudit.target.checkpoint import Choice

Run = Callable[..., Result]

IDS = ["=cmd()", "\x1b[31mred", "plain"]


def result(none: int, *, model: str = "later", **more: Any) -> ScanResult:
    """200 samples of which ``none`` extracts the first so many."""
    made = make_result(hits={"none": none}, data=make_windows(200, ids=IDS), **more)
    files = {"model.safetensors": model.encode().hex().ljust(64, "0")[:64]}
    return replace(made, target=replace(made.target, name=model, fingerprint=files))


def resolved(made: ScanResult, **choices: str) -> ScanResult:
    """As if these had been resolved otherwise."""
    others = {name: Choice(value, "auto") for name, value in choices.items()}
    return replace(made, target=replace(made.target, choices={**made.target.choices, **others}))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMAUDIT_KEY", KEY.secret.hex())
    store(tmp_path / "old", result(2, model="first"))
    for name, hits in {"same": 2, "worse": 12, "hardly": 4, "better": 0}.items():
        store(tmp_path / name, result(hits))
    made = CliRunner(env={"COLUMNS": "100"})
    run = lambda *words: made.invoke(app, [str(word) for word in words])  # noqa: E731
    assert run("baseline", "write", "old", "--out", "base.json").exit_code == 0
    return run


@pytest.mark.parametrize("baseline", ["base.json", "old"])
@pytest.mark.parametrize(
    ("name", "more", "code", "word"),
    [
        ("same", [], 0, "NO REGRESSION"),
        ("better", [], 0, "NO REGRESSION"),
        ("worse", [], 1, "REGRESSION"),
        ("hardly", [], 4, "INCONCLUSIVE"),
        ("hardly", ["--max-new", "2"], 0, "NO REGRESSION"),
        ("hardly", ["--max-new", "1"], 1, "REGRESSION"),
        ("worse", ["--exit-zero"], 0, "REGRESSION"),
        ("hardly", ["--exit-zero"], 0, "INCONCLUSIVE"),
    ],
)
def test_exit_codes(run: Run, baseline: str, name: str, more: list[str], code: int, word: str):
    compared = run("compare", baseline, name, *more)
    assert compared.exit_code == code, compared.stderr
    assert compared.stdout.startswith(word)
    assert compared.stderr == ""


def test_the_table_as_a_literal(run: Run) -> None:
    assert run("compare", "base.json", "hardly").stdout == (
        "INCONCLUSIVE  none: 2 newly extracted, 0 no longer (p = 0.5): too few to "
        "distinguish from chance,\nwhich takes 6 clusters; set with --max-new how many are too "
        "many.\n"
        """
Samples extracted, of 200 in both
attack  before  now  newly  no longer  unchanged    p
─────────────────────────────────────────────────────
none         2    4      2          0          2  0.5
unchanged: extracted both times. p: two-sided, the larger of the exact McNemar test over samples and
the exact sign test over clusters; a change for the worse is a regression if significant at 95 %
confidence.

Newly extracted: 2 samples in 2 clusters
sample    line  extracted by
────────────────────────────
plain        3  none
doc-0004     4  none

Model  before: first, sha256 9bc53dcaae21a4ff
       now: later, sha256 12e4e80b7f553cef
Data   hmac-sha256 abababababababab, 200 samples; key 1131f7e7
"""
    )


def test_json_names_every_sample_and_no_text(run: Run) -> None:
    compared = run("compare", "old", "worse", "--format", "json")
    assert compared.exit_code == 1
    document = json.loads(compared.stdout)
    assert (document["verdict"], document["exit_code"]) == ("regression", 1)
    assert document["models"]["changed_files"] == ["model.safetensors"]
    assert document["attacks"][0]["newly_extracted"] == 10
    assert document["attacks"][0]["p_value"] == pytest.approx(2 / 2**10)
    assert document["attacks"][0]["clustered_p_value"] == pytest.approx(2 / 2**10)
    assert document["attacks"][0]["clusters_worse"] == 10
    assert len(document["newly_extracted"]) == 10
    assert document["newly_extracted"][0] | {"fingerprint": ""} == {
        "fingerprint": "",
        "sample_id": "plain",
        "line": 3,
        "cluster": 2,
        "before": [],
        "now": ["none"],
    }
    assert (document["no_longer_extracted"], document["by_other_attacks"]) == ([], [])
    gone = json.loads(run("compare", "base.json", "better", "--format", "json").stdout)
    assert [one["sample_id"] for one in gone["no_longer_extracted"]] == ["=cmd()", r"\x1b[31mred"]
    assert gone["models"]["changed_files"] is None


def test_hostile_names_move_no_cursor(run: Run, tmp_path: Path) -> None:
    store(tmp_path / "hostile", result(0, model="\x1b[2Jgone\n"))
    compared = run("compare", "old", "hostile")
    assert compared.exit_code == 0
    assert "\x1b" not in compared.stdout
    assert r"now: \x1b[2Jgone\n" in compared.stdout
    assert r"\x1b[31mred" in compared.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: make_result(hits={"none": 2}, data=make_windows(199)), "other samples"),
        (lambda made: make_result(hits={"none": 2, "dynamic-hard": 2}), "attacks none, now none, "),
        (lambda made: result(2, controls=None), "other controls (hmac-sha256 abababab, now none)"),
        (
            lambda made: resolved(made, bos="yes"),
            "BOS token before every input no, now yes",
        ),
        (
            lambda made: replace(made, run=replace(made.run, key_id="0123abcd")),
            "made under another project key (s1 1131f7e7, now s1 0123abcd): set MEMAUDIT_KEY to ",
        ),
        (
            lambda made: result(
                2,
                protocol=made.config.protocol.model_copy(update={"seed": 5}),
            ),
            "protocol.seed 0, now 5",
        ),
    ],
)
def test_exit_2_names_what_differs(run: Run, tmp_path: Path, change: Any, said: str) -> None:
    store(tmp_path / "other", change(result(2)))
    before = (tmp_path / "base.json").read_bytes()
    for words in (["compare", "base.json", "other"], ["baseline", "update", "base.json", "other"]):
        failed = run(*words)
        assert failed.exit_code == 2
        error = failed.stderr.splitlines()[-1]
        assert error.startswith("memaudit: error: base.json: cannot be compared with this run")
        assert said in error
        assert failed.stdout == ""
    assert (tmp_path / "base.json").read_bytes() == before


@pytest.mark.parametrize("baseline", ["base.json", "old"])
def test_another_dtype_or_device_is_named(run: Run, tmp_path: Path, baseline: str) -> None:
    store(tmp_path / "half", resolved(result(2), dtype="float16", device="cuda"))
    said = "Audited in float32 on cpu, now float16 on cuda: close calls may differ."
    compared = run("compare", baseline, "half")
    assert compared.exit_code == 0
    assert f"Note   {said}\n" in compared.stdout
    document = json.loads(run("compare", baseline, "half", "--format", "json").stdout)
    assert document["notes"] == [said]
    assert document["terms"]["bos"] == "no"
    same = json.loads(run("compare", baseline, "same", "--format", "json").stdout)
    assert same["notes"] == []


def of_other_data(made: ScanResult, changed: range) -> ScanResult:
    """As if a later file had other samples at these places; ``none`` extracts the first two."""
    prints = list(made.sample_fingerprints["data"])
    for number in changed:
        prints[number] = f"s1-{number:010x}{0:022}"
    return replace(
        made,
        sample_fingerprints={**made.sample_fingerprints, "data": tuple(prints)},
        file_hmacs={**made.file_hmacs, "data": "c" * 64},
    )


@pytest.mark.parametrize("baseline", ["base.json", "old"])
def test_data_that_changed_are_compared_where_they_agree(
    run: Run, tmp_path: Path, baseline: str
) -> None:
    store(tmp_path / "week", of_other_data(result(2), range(1, 31)))
    said = (
        "The data changed since the baseline: 30 samples added, 30 removed (1 of them extracted "
        "before), 170 in both."
    )
    compared = run("compare", baseline, "week", "--max-new", "1")
    assert compared.exit_code == 0
    words = " ".join(compared.stdout.split())
    assert "Samples extracted, of 170 in both" in words
    assert f"Note {said}" in words
    assert "Extracted and added to the data: 1 sample in 1 cluster" in words
    failed = run("compare", baseline, "week", "--max-new", "0", "--format", "json")
    assert failed.exit_code == 1
    document = json.loads(failed.stdout)
    assert document["notes"] == [said]
    assert document["samples"] == {
        "both": 170,
        "only_baseline": 30,
        "extracted_only_baseline": 1,
        "only_run": 30,
        "newly_extracted_only_run": 1,
    }
    assert [one["line"] for one in document["newly_extracted_only_run"]] == [2]
    assert document["newly_extracted"] == document["no_longer_extracted"] == []


def test_an_update_takes_over_data_that_changed(run: Run, tmp_path: Path) -> None:
    store(tmp_path / "week", of_other_data(result(2), range(1, 31)))
    done = run("baseline", "update", "base.json", "week")
    assert done.stderr == (
        "Written to base.json: 1 of 200 samples extracted, 1 dropped\n"
        "The data changed since the baseline: 30 samples added, 30 removed (1 of them extracted "
        "before), 170 in both.\n"
        "1 newly extracted sample (1 of them added to the data) not accepted; use --allow-looser "
        "to accept\n"
    )
    after = json.loads((tmp_path / "base.json").read_text())
    assert sum(each.startswith("00000000") for each in after["fingerprints"]) == 30
    assert run("compare", "base.json", "week", "--max-new", "0").exit_code == 1
    assert run("baseline", "update", "base.json", "week", "--allow-looser").exit_code == 0
    assert run("compare", "base.json", "week", "--max-new", "0").exit_code == 0


def test_data_that_mostly_changed_update_nothing(run: Run, tmp_path: Path) -> None:
    store(tmp_path / "other", of_other_data(result(0), range(150)))
    before = (tmp_path / "base.json").read_bytes()
    assert run("compare", "base.json", "other", "--max-new", "9").exit_code == 4
    refused = run("baseline", "update", "base.json", "other")
    assert refused.exit_code == 2
    assert "base.json: cannot be updated from other: Only 50 of the baseline's" in refused.stderr
    assert (tmp_path / "base.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "nothing", "same"], "nothing: no such baseline file or run folder"),
        (["compare", "base.json", "nothing"], "nothing: no such run folder"),
        (["compare", "base.json", "base.json"], "base.json: no such run folder"),
        (["compare", "old/report.json", "same"], "old/report.json: is not a baseline file"),
        (["compare", "old", "same", "--format", "xml"], "choose table, json, markdown or junit"),
        (["baseline", "write", "old", "--out", "base.json"], "--out base.json: already exists"),
        (["baseline", "write", "old", "--out", "no/base.json"], "no/base.json: cannot be written"),
        (["baseline", "update", "old", "same"], "old: no such baseline file"),
        (["compare", "x" * 5000, "same"], "x: cannot be read (File name too long)"),
        (["compare", "old", "x" * 5000], "cannot be read (File name too long)"),
        (["baseline", "update", "x" * 5000, "same"], "x: cannot be read (File name too long)"),
        (["baseline", "write", "old", "--out", "x" * 5000], "x: cannot be written (File name too"),
    ],
)
def test_exit_2_for_what_is_not_there(run: Run, words: list[str], said: str) -> None:
    failed = run(*words)
    assert failed.exit_code == 2
    assert said in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_a_baseline_goes_to_stdout_or_a_file_and_is_the_same(run: Run, tmp_path: Path) -> None:
    printed = run("baseline", "write", "old")
    assert printed.stdout == (tmp_path / "base.json").read_text()
    assert printed.stderr == ""
    again = run("baseline", "write", "old", "--out", "again.json")
    assert again.stderr == "Written to again.json: 2 of 200 samples extracted\n"
    assert run("baseline", "write", "old", "--out", "quiet.json", "-q").stderr == ""


def test_an_update_tightens_and_loosens_only_when_told_to(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "base.json"
    before = file.read_text()
    kept = run("baseline", "update", "base.json", "worse")
    assert kept.exit_code == 0
    assert kept.stderr == (
        "Written to base.json: 2 of 200 samples extracted, 0 dropped\n"
        "10 newly extracted samples not accepted; use --allow-looser to accept\n"
    )
    # A reviewer sees the model change, and nothing of the samples.
    changed = set(before.splitlines()) ^ set(file.read_text().splitlines())
    assert {line.split('"')[1] for line in changed} == {"model", "model_sha256", "digest"}
    loosened = run("baseline", "update", "base.json", "worse", "--allow-looser")
    assert (
        "12 of 200 samples extracted, 0 dropped\n10 newly extracted samples accepted"
        in loosened.stderr
    )
    tightened = run("baseline", "update", "base.json", "better")
    assert "0 of 200 samples extracted, 12 dropped" in tightened.stderr
    assert run("compare", "base.json", "worse").exit_code == 1


def test_comparing_loads_no_torch(run: Run, tmp_path: Path) -> None:
    for words in (["compare", "old", "worse"], ["baseline", "update", "base.json", "better"]):
        code = (
            "import sys\nfrom memaudit.cli.app import app\n"
            f"try:\n    app({words!r})\nexcept SystemExit:\n    pass\n"
            "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
