"""Variables of the environment and the command line: who wins, what is said, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_scan import make_files
from typer.testing import CliRunner, Result

from memaudit.cli.app import app

PLAIN = ["--attacks", "none"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_files(tmp_path_factory.mktemp("files"), count=60)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(environ: dict[str, str], *words: object) -> Result:
    return CliRunner(env=environ).invoke(app, [str(word) for word in words])


def test_a_gate_of_the_environment_judges_and_stands_in_the_report(
    files: list[str], tmp_path: Path
) -> None:
    environ = {"MEMAUDIT_GATE_MAX_EXACT": "0.01", "MEMAUDIT_OUT": "gated"}
    failed = run(environ, "scan", *files, *PLAIN, "--verbose")
    assert failed.exit_code == 1, failed.output
    assert "gate.max_exact = 0.01  (environment MEMAUDIT_GATE_MAX_EXACT)" in failed.stderr
    config = json.loads((tmp_path / "gated" / "report.json").read_text())["config"]
    assert config["values"]["gate"]["max_exact"] == 0.01
    assert config["sources"]["gate.max_exact"] == "environment MEMAUDIT_GATE_MAX_EXACT"
    assert config["sources"]["out"] == "environment MEMAUDIT_OUT"
    assert "environment MEMAUDIT_GATE_MAX_EXACT" in (tmp_path / "gated/report.html").read_text()
    loose = {"MEMAUDIT_GATE_MAX_EXACT": "0.01"}
    assert run(loose, "scan", *files, *PLAIN, "--max-exact", "0.99").exit_code == 0


@pytest.mark.parametrize("command", ["scan", "inspect", "bench"])
def test_a_misspelt_gate_stops_before_anything_is_loaded(command: str, files: list[str]) -> None:
    stopped = run({"MEMAUDIT_GATE_MAX_EXCAT": "0.01"}, command, "no-such-model")
    assert stopped.exit_code == 2
    assert "MEMAUDIT_GATE_MAX_EXCAT is no setting; did you mean" in stopped.stderr


def test_a_safeguard_is_lifted_by_its_flag_alone(files: list[str]) -> None:
    refused = run({"MEMAUDIT_TARGET_ALLOW_PICKLE": "1"}, "scan", *files)
    assert refused.exit_code == 2
    assert "can only be set by the flag --allow-pickle" in refused.stderr


def test_model_and_data_may_come_from_the_environment_and_an_unknown_name_is_noted(
    files: list[str],
) -> None:
    environ = {"MEMAUDIT_MODEL": files[0], "MEMAUDIT_DATA": files[1], "MEMAUDIT_CI_JOB": "7"}
    looked = run(environ, "inspect", *files[2:])
    assert looked.exit_code == 0, looked.output
    assert "data.jsonl" in looked.stdout
    assert "Warning: the environment variable MEMAUDIT_CI_JOB is no setting" in looked.stderr


def test_the_key_file_may_come_from_the_environment(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "key").write_text("ab" * 32)
    (tmp_path / "key").chmod(0o600)
    environ = {"MEMAUDIT_KEY_FILE": str(tmp_path / "key")}
    assert run(environ, "scan", *files, *PLAIN, "--out", "keyed").exit_code == 0
    misspelt = {"MEMAUDIT_GATE_MAX_EXCAT": "0.01"}  # verify judges nothing
    assert run(environ | misspelt, "verify", "keyed").exit_code == 0
    assert run({}, "verify", "keyed").stdout != run(environ, "verify", "keyed").stdout
