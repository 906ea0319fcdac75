"""Flags made from settings, and the help that lists them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from memaudit import __version__
from memaudit.cli.app import app
from memaudit.cli.flags import Given, GroupedCommand, with_settings
from memaudit.config.flags import Flag, flags_of
from memaudit.config.settings import ScanConfig
from memaudit.report.diagnosis import DIAGNOSES

FIRST_SCREEN = 24
MATTER_MOST = (
    *("MODEL", "DATA", "--controls", "--reference", "--attacks", "--max-exact", "--device"),
    *("--profile", "--out", "--resume", "--format"),
)


class Inner(BaseModel):
    depth: Annotated[int | None, Flag("--depth", "How deep.", "Model")] = None
    deaf: Annotated[bool, Flag("--deaf", "Hear nothing.", "Model")] = False


class Outer(BaseModel):
    place: Annotated[Path | None, Flag("PLACE", "Where.")] = None
    names: Annotated[tuple[str, ...], Flag("--names", "Separated by commas.")] = ()
    also: Annotated[tuple[str, ...], Flag("--also", "More.", repeatable=True, metavar="NAME")] = ()
    plain: int = 0
    inner: Inner = Inner()


def app_of(*only: str, without: tuple[str, ...] = ()) -> tuple[typer.Typer, list[Any]]:
    """A program with one command, and what that command is called with."""
    small = typer.Typer(rich_markup_mode=None)
    calls: list[Any] = []

    @small.command(cls=GroupedCommand)
    @with_settings(Outer, only or None, without=without, helps={"names": "Other help."})
    def command(given: Given, loud: Annotated[bool, typer.Option("--loud")] = False) -> None:
        calls.append((given, loud))

    return small, calls


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], {}),
        (["here", "--names", "a, b"], {"place": Path("here"), "names": ["a", "b"]}),
        (["--also", "a", "--also", "b,c"], {"also": ["a", "b,c"]}),
        (["--depth", "0", "--deaf"], {"inner": {"depth": 0, "deaf": True}}),
    ],
)
def test_only_what_was_given_is_passed_on(words: list[str], given: Given) -> None:
    small, calls = app_of()
    result = CliRunner().invoke(small, [*words, "--loud"])
    assert result.exit_code == 0, result.output
    assert calls == [(given, True)]


def test_a_command_has_the_flags_that_it_names_and_no_others() -> None:
    for small, expected in (
        (app_of("inner")[0], {"--depth", "--deaf"}),
        (app_of("inner.depth", "names")[0], {"--depth", "--names"}),
        (app_of(without=("inner", "place"))[0], {"--names", "--also"}),
    ):
        params = typer.main.get_command(small).params
        flags = {flag for param in params for flag in param.opts if flag.startswith("--")}
        own = {"--loud", "--install-completion", "--show-completion"}
        assert flags - own == expected
    assert CliRunner().invoke(app_of("inner")[0], ["--names", "a"]).exit_code == 2


def test_help_lists_flags_in_groups() -> None:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app_of()[0], ["--help"])
    lines = result.stdout.splitlines()
    place = {
        word: next(number for number, line in enumerate(lines) if line.strip().startswith(word))
        for word in ("Arguments:", "PLACE", "Options:", "--names", "--loud", "Model:", "--depth")
    }
    assert list(place) == sorted(place, key=lambda word: place[word])
    assert "Other help." in result.stdout
    assert "Windows:" not in result.stdout


def commands() -> dict[str, Any]:
    return typer.main.get_command(app).commands  # type: ignore[attr-defined, no-any-return]


def test_scan_takes_every_setting_that_has_a_flag() -> None:
    options = {name for param in commands()["scan"].params for name in param.opts}
    flags = {setting.flag.name for setting in flags_of(ScanConfig).values()}
    assert flags - {"MODEL", "DATA"} <= options
    names = [setting.flag.name for setting in flags_of(ScanConfig).values()]
    assert len(names) == len(set(names))


def test_every_diagnosis_has_a_command() -> None:
    assert tuple(commands()["diagnose"].commands) == DIAGNOSES


def test_the_first_screen_of_scan_shows_the_flags_that_matter() -> None:
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["scan", "--help"]).stdout
    screen = [line.strip() for line in shown.splitlines()[:FIRST_SCREEN]]
    for name in MATTER_MOST:
        assert any(line.startswith(name) for line in screen), name


@pytest.mark.parametrize("command", ["scan", "inspect", "bench"])
def test_options_of_long_commands_are_grouped(command: str) -> None:
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, [command, "-h"]).stdout
    assert "\nOptions:\n" in shown
    assert "\nModel:\n" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_version_is_printed() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"memaudit {__version__}\n")


@pytest.mark.parametrize(
    ("words", "completed"),
    [("memaudit sc", {"scan"}), ("memaudit diagnose la", {"latent", "layers"})],
)
def test_the_shell_completes_commands(words: str, completed: set[str]) -> None:
    asked = {
        "_MEMAUDIT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    result = CliRunner(env=asked).invoke(app, [], prog_name="memaudit")
    assert set(result.stdout.split()) == completed


@pytest.mark.parametrize(
    "words", [["--version"], ["scan", "--help"], ["diagnose", "latent", "--help"]]
)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    heavy = ("torch", "transformers", "pandas", "numpy", "memaudit.config.sources")
    code = (
        "import sys\nfrom memaudit.cli.app import app\n"
        f"try:\n    app({words!r})\nexcept SystemExit:\n    pass\n"
        f"sys.exit(','.join(name for name in {heavy!r} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ)
    assert done.returncode == 0, done.stderr
