"""Several formats from one run, and a run in one line, as a pipeline asks for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from made_result import KEY, make_result
from quick_scan import quick_scan
from stored import store
from typer.testing import CliRunner, Result

from memaudit.cli.app import app
from memaudit.cli.report_files import FORMATS
from memaudit.config.settings import GateSettings

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMAUDIT_KEY", KEY.secret.hex())
    store(tmp_path / "audit", make_result(gate=GateSettings(max_exact=0.01)))
    return lambda *words: CliRunner(env={"COLUMNS": "100"}).invoke(app, [str(w) for w in words])


def test_every_format_from_one_run_is_the_document_of_that_format(run: Run) -> None:
    flags = [word for name in FORMATS for word in ("--report", f"{name}=out.{name}")]
    before = {path: path.read_bytes() for path in Path("audit").iterdir()}
    shown = run("report", "audit", "--format", "json", *flags)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["schema_version"]
    for name in FORMATS:
        file = Path(f"out.{name}")
        assert file.read_bytes() == run("report", "audit", "--format", name).stdout_bytes, name
        assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in Path().iterdir()) == sorted(
        ["audit", *(f"out.{name}" for name in FORMATS)]
    )
    assert before == {path: path.read_bytes() for path in Path("audit").iterdir()}


def test_an_earlier_file_is_replaced_whole(run: Run) -> None:
    Path("out.xml").write_text("x" * 100_000)
    assert run("report", "audit", "--report", "junit=out.xml").exit_code == 0
    assert Path("out.xml").read_bytes() == run("report", "audit", "--format", "junit").stdout_bytes


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["sarif"], "--report sarif: write it as FORMAT=FILE, e.g. sarif=out.sarif"),
        (["sarif="], "write it as FORMAT=FILE"),
        (["pdf=out.pdf"], "--report pdf: choose table, json, csv,"),
        (["csv=none/out.csv"], "--report csv=none/out.csv: there is no folder none"),
        (["csv=audit"], "--report csv=audit: is not a regular file"),
        (["csv=link.csv"], "--report csv=link.csv: is not a regular file"),
        (["csv=out", "json=./out"], "--report json=out: csv goes to this file already"),
        (["csv=audit/out.csv"], "--report csv=audit/out.csv: lies inside the run folder"),
        (["csv=audit/samples.csv"], "lies inside the run folder"),
        (["csv=model/out.csv"], "--report csv=model/out.csv: lies inside the model's folder"),
        (["csv=data.jsonl"], "--report csv=data.jsonl: is an input of this run"),
        (["csv=sly.csv"], "--report csv=sly.csv: is an input of this run"),
        (["csv=base.json"], "--report csv=base.json: is an input of this run"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_scan(
    run: Run, flags: list[str], message: str
) -> None:
    Path("model").mkdir()
    Path("model", "config.json").write_text("{}")
    for name in ("data.jsonl", "base.json"):
        Path(name).write_text('{"text": "one"}\n')
    Path("link.csv").symlink_to("/dev/null")
    Path("sly.csv").symlink_to("data.jsonl")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    words = [word for flag in flags for word in ("--report", flag)]
    scan = ["scan", "model", "data.jsonl", "--baseline", "base.json", "--max-new", "0"]
    if any("audit/" in flag for flag in flags):
        failed = run("report", "audit", *words)
    else:
        failed = run(*scan, *words)
    assert (failed.exit_code, failed.stdout) == (2, "")
    assert message in failed.stderr
    assert before == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def test_a_shard_has_no_report_and_a_diagnosis_no_files(run: Run) -> None:
    shard = run("scan", "model", "data.jsonl", "--shard", "1/2", "--report", "json=out.json")
    assert (shard.exit_code, "give it to merge" in shard.stderr) == (2, True)
    latent = run("report", "audit", "--diagnosis", "latent", "--report", "json=out.json")
    assert (latent.exit_code, "--report with --diagnosis" in latent.stderr) == (2, True)


def test_a_disk_that_refuses_a_file_ends_with_3_and_the_way_to_get_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, chunks: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("memaudit.cli.showing.write_whole", full)
    failed = run("report", "audit", "-q", "--report", "csv=a.csv", "--report", "junit=b.xml")
    assert (failed.exit_code, len(failed.stdout.splitlines())) == (3, 1)
    assert failed.stderr == (
        "memaudit: error: --report csv=a.csv: cannot be written (No space left on device); the run "
        "is whole: memaudit report audit --report csv=a.csv --report junit=b.xml\n"
    )


def test_quiet_is_the_finding_and_the_verdict_in_one_line(run: Run) -> None:
    quiet = run("report", "audit", "-q")
    summary = json.loads(Path("audit/report.json").read_text())["summary"]
    (line,) = quiet.stdout.splitlines()
    assert line.startswith(f"{summary}. This run ")
    assert "max-exact" in line
    assert (quiet.exit_code, quiet.stderr) == (0, "")


def test_quiet_leaves_a_document_whole(run: Run) -> None:
    for name in ("json", "sarif", "csv"):
        words = ("report", "audit", "--format", name)
        assert run(*words, "-q").stdout_bytes == run(*words).stdout_bytes


def test_a_quiet_scan_is_one_line_and_its_files(run: Run, tmp_path: Path) -> None:
    words = [*quick_scan(tmp_path), "--out", "scanned", "--report", "sarif=out.sarif"]
    done = run("scan", *words, "--report", "csv=out.csv")
    assert (done.exit_code, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)
    assert Path("out.csv").read_bytes() == Path("scanned", "samples.csv").read_bytes()
    assert json.loads(Path("out.sarif").read_text())["version"] == "2.1.0"
    assert not list(Path().glob(".*"))
    inside = run("scan", *words[:-2], "--report", "csv=scanned/new.csv")
    assert (inside.exit_code, "is not an empty folder" in inside.stderr) == (2, True)
