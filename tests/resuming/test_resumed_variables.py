"""A run that resumes while the environment sets something: nothing changes unnoticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_scan import make_files
from typer.testing import CliRunner, Result

from memaudit.cli.app import app
from memaudit.run.unfinished import Unfinished

GATE = "MEMAUDIT_GATE_MAX_EXACT"


def run(environ: dict[str, str], *words: object) -> Result:
    return CliRunner(env=environ).invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    made = make_files(tmp_path_factory.mktemp("files"), count=60)
    return [*made, "--attacks", "none,copy"]


def stopped_run(folder: Path, environ: dict[str, str], *words: object) -> Path:
    keep = Unfinished.keep

    def stop_after(self: Unfinished, name: str, entry: Any) -> None:
        keep(self, name, entry)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Unfinished, "keep", stop_after)
        assert run(environ, "scan", *words, "--out", folder).exit_code == 130
    return folder


@pytest.fixture(scope="module")
def gated(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped run whose gate came from the environment."""
    return stopped_run(tmp_path_factory.mktemp("gated") / "run", {GATE: "0.01"}, *files)


@pytest.fixture
def left(gated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(gated, tmp_path / "left"))


@pytest.mark.parametrize("environ", [{}, {GATE: "0.01"}, {GATE: "1e-2", "MEMAUDIT_OUT": "other"}])
def test_a_run_resumes_with_the_gate_it_began_with(left: Path, environ: dict[str, str]) -> None:
    ended = run(environ, "scan", "--resume", left)
    assert ended.exit_code == 1, ended.output
    report = json.loads((left / "report.json").read_text())["config"]
    assert report["values"]["gate"]["max_exact"] == 0.01
    assert report["sources"]["gate.max_exact"] == f"environment {GATE}"


@pytest.mark.parametrize(
    "environ", [{GATE: "0.5"}, {"MEMAUDIT_GATE_MAX_LIFT": "0.1"}, {"MEMAUDIT_PROTOCOL_SEED": "8"}]
)
def test_another_value_in_the_environment_is_refused(
    left: Path, environ: dict[str, str], files: list[str]
) -> None:
    ended = run(environ, "scan", "--resume", left)
    if "MEMAUDIT_PROTOCOL_SEED" in environ:  # a flag set the seed, and flags win
        assert ended.exit_code == 1, ended.output
        return
    (variable,) = environ
    assert ended.exit_code == 2, ended.output
    assert f"than {variable} says; unset the variable to go on" in ended.stderr
    again = run(environ, "scan", *files, "--resume", left)
    assert again.exit_code == 2
    assert "cannot resume: these inputs changed" in again.stderr


def test_a_misspelt_gate_stops_a_resumed_run_too(left: Path) -> None:
    ended = run({"MEMAUDIT_GATE_MAXEXACT": "0.01"}, "scan", "--resume", left)
    assert ended.exit_code == 2


def test_a_flag_at_the_start_wins_over_the_environment_later(
    files: list[str], tmp_path: Path
) -> None:
    words = [*files, "--max-exact", "0.99"]
    left = stopped_run(tmp_path / "run", {GATE: "0.01"}, *words)
    assert run({GATE: "0.01"}, "scan", "--resume", left).exit_code == 0
