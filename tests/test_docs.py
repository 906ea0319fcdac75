"""The documentation, checked against what it describes."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from memaudit import __version__
from memaudit.cli.app import app
from memaudit.cli.showing import FORMATS
from memaudit.config.sources import Layer, list_profiles, profiles_folder, resolve
from memaudit.diagnose.settings import DiagnoseSettings
from memaudit.errors import MemauditError
from memaudit.gate.thresholds import GateVerdict, Verdict, exit_code
from memaudit.report.diagnosis import DIAGNOSES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PATHS = Layer(source="flag", values={"model": "model", "data": "data.jsonl"})
INTERRUPTED, TERMINATED = 130, 143


def fenced(mark: str) -> str:
    """The fenced block that follows a comment of the README."""
    found = re.search(rf"<!-- {re.escape(mark)} -->\n```\w*\n(.*?)\n```\n", README, re.DOTALL)
    assert found, f"README.md has no fenced block after <!-- {mark} -->"
    return found[1]


def section(heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.M)
    assert found, f"README.md has no section {heading}"
    return found[1]


def errors(kind: type[MemauditError] = MemauditError) -> Iterator[type[MemauditError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from errors(below)


def test_the_formats_are_all_described() -> None:
    rows = re.findall(r"^\| (`.+?) \|", section("Reports"), re.M)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(FORMATS)


def test_every_profile_is_listed_and_valid() -> None:
    profiles = list_profiles()
    assert set(profiles) == {path.stem for path in (ROOT / "profiles").glob("*.toml")}
    for name, layer in profiles.items():
        assert layer.about, f"profile {name} does not say what it is for"
        resolve([layer, PATHS])


def test_the_table_of_exit_codes_is_complete() -> None:
    listed = re.findall(r"^\| (\d+) \| .+ \|$", section("Exit codes"), re.M)
    verdicts: tuple[Verdict, ...] = ("pass", "fail", "inconclusive")
    judged = {
        exit_code([GateVerdict("max-exact", 0.1, "none", 0.0, 0.0, verdict, "")])
        for verdict in verdicts
    }
    raised = {error.exit_code for error in errors()}
    assert [int(code) for code in listed] == sorted(judged | raised | {INTERRUPTED, TERMINATED})


@pytest.mark.parametrize(
    "command",
    ["scan", "merge", "report", "compare", "verify", "diagnose", "diagnose latent"],
)
def test_the_block_of_options_is_what_help_says(command: str) -> None:
    """Where this fails, paste the output of ``COLUMNS=100 memaudit COMMAND --help``."""
    result = CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"}).invoke(
        app, [*command.split(), "--help"], prog_name="memaudit"
    )
    assert result.exit_code == 0
    lines = [line.rstrip() for line in result.stdout.strip().splitlines()]
    assert fenced(f"help: {command}").splitlines() == lines


def test_the_settings_are_all_listed_with_their_defaults() -> None:
    block = fenced("settings")
    defaults = resolve([PATHS]).config.model_dump(mode="json")
    del defaults["model"], defaults["data"]
    unset: set[str] = set()
    assert tomllib.loads(block) == _with_value(defaults, unset)
    remarks = set(re.findall(r"\w+", " ".join(re.findall(r"^# (.*)$", block, re.M))))
    assert unset <= remarks, f"not in the README: {sorted(unset - remarks)}"


def test_the_settings_of_diagnoses_are_all_listed_with_their_defaults() -> None:
    """Those that every diagnosis has are flags, and stand in the help."""
    listed = tomllib.loads(fenced("settings: diagnose"))
    found = {}
    for name in DIAGNOSES:
        room = importlib.import_module(f"memaudit.diagnose.{name}.diagnosis")
        kind = getattr(room, f"{name.capitalize()}Settings")
        own = set(kind.model_fields) - set(DiagnoseSettings.model_fields)
        flags = {"known", "reference", "models", "by", "fits"}
        values = {field: kind.model_fields[field].default for field in sorted(own - flags)}
        values |= {"windows": kind.model_fields["windows"].default}
        found[name] = {
            field: list(value) if isinstance(value, tuple) else value
            for field, value in values.items()
        }
    assert listed == found


def _with_value(values: dict[str, Any], unset: set[str]) -> dict[str, Any]:
    """The settings that have a default; the names of the others go into ``unset``."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            # A section that is all remarks stands in the block as an empty table.
            kept[key] = _with_value(value, unset)
        elif value is None:
            unset.add(key)
        else:
            kept[key] = value
    return kept


@pytest.mark.parametrize("name", ["run", "test"])
def test_the_commands_name_files_that_exist(name: str) -> None:
    command = fenced(f"command: {name}")
    for path in re.findall(r"(?:examples/\S+|constraints\.txt)", command):
        assert (ROOT / path).is_file(), path
    for profile in re.findall(r"--profile (\S+)", command):
        assert profile in list_profiles()


def test_the_changelog_knows_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", changelog, re.M)
    assert released
    assert released[0] == __version__


def test_constraints_pin_every_dependency() -> None:
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    names = {re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0] for one in wanted}
    assert names <= pinned, f"without a pin: {sorted(names - pinned)}"


def test_the_lock_has_hashes_for_the_same_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {tuple(line.partition(";")[0].strip().split("==")) for line in lines if "==" in line}
    names = {name for name, _ in pinned}
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^([a-z0-9.-]+)==(\S+)[^\n]*\\\n((?:    --hash=.*\n?)+)", lock, re.M)
    assert len(entries) == len(re.findall(r"^[^\s#]", lock, re.M))  # none without hashes
    for name, version, hashes in entries:
        assert re.fullmatch(r"(    --hash=sha256:[0-9a-f]{64}( \\)?\n?)+", hashes), name
        assert name not in names or (name, version) in pinned
    wanted = PROJECT["project"]["dependencies"]
    own = {re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0] for one in wanted}
    assert own <= {name for name, _, _ in entries}
    assert "://" not in lock


def test_the_threat_model_names_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[\w/.]+)`", section("Threat model"))
    assert len(named) > 10
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_wheel_is_told_to_take_profiles_and_schema() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["memaudit"]
    assert wheel["force-include"] == {"profiles": "memaudit/profiles"}
    assert (ROOT / "memaudit" / "report" / "report.schema.json").is_file()
    assert profiles_folder().is_dir()


@pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None,
    reason="hatchling, which builds the wheel, is not installed",
)
def test_the_wheel_holds_profiles_and_schema(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    profiles = {f"memaudit/profiles/{path.name}" for path in (ROOT / "profiles").glob("*.toml")}
    assert profiles
    page = {path.name for path in (ROOT / "memaudit" / "report" / "html").iterdir()}
    assert len(page) == 3
    assert {f"memaudit/report/html/{name}" for name in page} <= held
    assert profiles | {"memaudit/report/report.schema.json", "memaudit/cli/app.py"} <= held
    assert any(name.endswith("/licenses/LICENSE") for name in held)
