"""Evidence as a user gets it: a scan, its folder verified, changed and verified again."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from command_server import CommandServer
from conftest import build_model, build_tokenizer, save_model
from typer.testing import CliRunner, Result

from memaudit.cli.app import app
from memaudit.errors import TargetError
from memaudit.system.own_folder import OwnFolder

pytestmark = pytest.mark.slow

Run = Callable[..., Result]
SIZES = ["--prefix-tokens", "8", "--suffix-tokens", "12", "--device", "cpu", "--quiet"]
SECRET = "zoe@q.example"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def scanned(run: Run, tmp_path: Path) -> Path:
    """A run over ten records, of which every second has an address in its suffix."""
    save_model(build_model("gpt2"), build_tokenizer(), tmp_path / "model")
    records = [
        {"prefix": f"record {n} of some more words", "suffix": SECRET if n % 2 else " nothing " * 3}
        for n in range(10)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    made = run("scan", "model", "data.jsonl", "--attacks", "none", "--out", "run", *SIZES)
    assert made.exit_code == 0, made.stderr
    assert re.search(r"e-mail addresses +5 +0 +0\n", run("report", "run").stdout)
    return tmp_path / "run"


def test_categories_are_counted_and_nothing_is_shown(scanned: Path) -> None:
    for name in ("samples.csv", "windows.csv"):
        rows = list(csv.DictReader((scanned / name).read_text().splitlines()))
        assert [row["categories"] for row in rows] == ["", "email:1"] * 5
    (email,) = [
        one
        for one in json.loads((scanned / "report.json").read_text())["sensitive"]["data"]
        if one["windows"]
    ]
    assert email == {
        "category": "email",
        "title": "e-mail addresses",
        "samples": 5,
        "windows": 5,
        "found": 5,
        "extracted": 0,
        "extracted_by": {"none": 0},
        "leaked": None,
    }
    for path in scanned.iterdir():
        assert SECRET.split("@")[0].encode() + b"@" not in path.read_bytes()


def test_nothing_is_looked_for_where_that_is_switched_off(run: Run, scanned: Path) -> None:
    words = ("--attacks", "none", "--out", "off", "--set", "sensitive.enabled=false")
    made = run("scan", "model", "data.jsonl", *words, *SIZES)
    assert made.exit_code == 0, made.stderr
    assert "Sensitive" not in made.stdout
    assert json.loads((scanned.parent / "off" / "report.json").read_text())["sensitive"] is None
    rows = csv.DictReader((scanned.parent / "off" / "samples.csv").read_text().splitlines())
    assert {row["categories"] for row in rows} == {""}


def test_training_tokens_stand_beside_parameters(run: Run, scanned: Path) -> None:
    words = ("--attacks", "none", "--out", "told", "--set", "target.training_tokens=1000000")
    assert run("scan", "model", "data.jsonl", *words, *SIZES).exit_code == 0
    target = json.loads((scanned.parent / "told" / "report.json").read_text())["target"]
    assert target["training_tokens"] == 1_000_000
    assert target["training_tokens_per_parameter"] == 1_000_000 / target["parameters"]


def test_the_bill_of_materials_goes_to_stdout(run: Run, scanned: Path) -> None:
    words = ("--attacks", "none", "--out", "bill", "--format", "cyclonedx")
    made = run("scan", "model", "data.jsonl", *words, *SIZES)
    assert json.loads(made.stdout)["bomFormat"] == "CycloneDX"


def test_a_run_is_verified(run: Run, scanned: Path) -> None:
    result = run("verify", "run")
    assert result.exit_code == 0, result.stdout
    lines = result.stdout.splitlines()
    assert lines[0] == "All as recorded: 20 the same."
    compared = [
        re.split(r"  +", line.strip())[1] for line in lines if line.lstrip().startswith("same  ")
    ]
    assert compared == [
        "config.toml",
        "report.html",
        "report.json",
        "samples.csv",
        "windows.csv",
        "seal of manifest.json",
        "results in report.json",
        "exit code in report.json",
        "config.toml as report.json names it",
        "settings in report.json",
        "tables beside report.json",
        "gates in report.json",
        "config.toml made again",
        "report.html made again",
        "model config.json",
        "model generation_config.json",
        "model model.safetensors",
        "model tokenizer.json",
        "model tokenizer_config.json",
        "data data.jsonl",
    ]


def test_a_page_that_cannot_be_made_costs_no_run(
    run: Run, scanned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError(SECRET)

    words = ("scan", "model", "data.jsonl", "--attacks", "none", "--out", "bare", *SIZES)
    with monkeypatch.context() as patched:
        patched.setattr("memaudit.pipeline.write.to_html", broken)
        made = run(*words)
    assert made.exit_code == 3
    assert made.stderr == (
        "memaudit: error: bare: the run is complete, but report.html could not be made "
        "(ZeroDivisionError); try memaudit report bare --format html\n"
    )
    whole = {"config.toml", "report.json", "samples.csv", "windows.csv", "manifest.json"}
    assert {path.name for path in (scanned.parent / "bare").iterdir()} == whole
    assert run("verify", "bare").exit_code == 0
    assert "<html" in run("report", "bare", "--format", "html").stdout


def test_the_report_is_written_before_the_page_and_the_manifest_last(
    run: Run, scanned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def noted(folder: OwnFolder, name: str, chunks: Iterable[bytes]) -> None:
        if folder.path.name == "noted":
            written.append(name)
        write_whole(folder, name, chunks)

    write_whole = OwnFolder.write_whole
    monkeypatch.setattr(OwnFolder, "write_whole", noted)
    run("scan", "model", "data.jsonl", "--attacks", "none", "--out", "noted", *SIZES)
    tables = ["samples.csv", "windows.csv"]
    assert written == ["config.toml", *tables, "report.json", "report.html", "manifest.json"]


def test_content_is_looked_for_before_any_attack(
    run: Run, scanned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise TargetError("the entity model ran out of memory")

    attacked: list[object] = []
    monkeypatch.setattr("memaudit.pipeline.prepare.find_sensitive", failing)
    monkeypatch.setattr("memaudit.pipeline.attacks.Campaign.run", lambda *_: attacked.append(1))
    made = run("scan", "model", "data.jsonl", "--attacks", "none", "--out", "failed", *SIZES)
    assert (made.exit_code, attacked) == (3, [])
    assert not (scanned.parent / "failed").exists()


def test_what_changed_is_said(run: Run, scanned: Path) -> None:
    weights = scanned.parent / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    (scanned.parent / "data.jsonl").write_text("{}")
    (scanned / "config.toml").write_text("")
    result = run("verify", "run")
    assert result.exit_code == 1
    assert result.stdout.startswith("Not as recorded: 3 changed; ")
    changed = [line.split("  ")[1] for line in result.stdout.splitlines() if "changed  " in line]
    assert changed == ["config.toml", "model model.safetensors", "data data.jsonl"]


def test_a_reader_that_went_away_changes_no_verdict(
    run: Run, scanned: Path, commands: CommandServer
) -> None:
    words = ["scan", "model", "data.jsonl", "--attacks", "none", "--out", "alone", *SIZES]
    # Another process judges whether a run means anything, which this one does not.
    made = commands.run([*words, "--exit-zero"], scanned.parent, os.environ)
    assert made.code == 0, made.stderr
    command = [sys.executable, "-m", "memaudit", "verify", "alone"]

    def unheard() -> tuple[int, str]:
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
        os.close(write)
        return done.returncode, done.stderr

    assert unheard() == (0, "")
    (scanned.parent / "alone" / "config.toml").write_text("")
    assert unheard() == (1, "")


def test_model_and_data_that_moved(run: Run, scanned: Path) -> None:
    shutil.move(scanned.parent / "model", scanned.parent / "moved")
    shutil.move(scanned.parent / "data.jsonl", scanned.parent / "moved.jsonl")
    alone = run("verify", "run")
    assert alone.exit_code == 0
    assert alone.stdout.startswith("Incomplete: 2 of 16 not checked; 14 as recorded.")
    assert run("verify", "run", "--strict").exit_code == 4
    places = ("--model", "moved", "--data", "moved.jsonl")
    assert run("verify", "run", "--strict", *places).exit_code == 0
    (scanned.parent / "moved" / "added_tokens.json").write_text("{}")
    more = run("verify", "run", "--model", "moved")
    assert more.exit_code == 1
    assert "extra        model added_tokens.json" in more.stdout


def test_from_another_folder_the_same_is_checked(
    run: Run, scanned: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "data.jsonl").write_text("of another project")
    os.chdir(elsewhere)
    assert run("verify", scanned).stdout.startswith("All as recorded: 20 the same.")
    os.chdir(scanned)
    assert run("verify", ".").stdout.startswith("All as recorded: 20 the same.")
    (scanned.parent / "data.jsonl").write_text("{}")
    assert run("verify", ".", "--strict").exit_code == 1


def test_a_run_folder_that_was_moved_leaves_its_files_to_be_named(
    run: Run, scanned: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    archive = tmp_path_factory.mktemp("archive")
    shutil.move(scanned, archive / "kept")
    os.chdir(archive)
    assert run("verify", "kept", "--strict").exit_code == 4
    (archive / "kept" / "manifest.json.asc").write_text("signed")
    places = ("--model", scanned.parent / "model", "--data", scanned.parent / "data.jsonl")
    whole = run("verify", "kept", "--strict", *places)
    assert (whole.exit_code, "signature  manifest.json.asc" in whole.stdout) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--reference", "x"), "--reference x: the run had none; leave the flag out"),
        (("run", "--base", "x"), "--base x: cannot be hashed; give what was audited"),
        (("nowhere",), "nowhere: no such run folder; give one that memaudit scan wrote"),
        ((".",), ".: holds no finished run (no manifest.json)"),
        (("run", "--model", "x/y/z"), "--model x/y/z: cannot be hashed; give what was audited"),
        (("run", "--data", "gone"), "--data gone: no such file or folder"),
    ],
)
def test_no_run_and_no_such_place(run: Run, scanned: Path, words: tuple[str], said: str) -> None:
    result = run("verify", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"memaudit: error: {said}\n"
