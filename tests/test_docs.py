"""The documentation, checked against what it describes."""

from __future__ import annotations

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
import typer
from settings_page import DOCS, PAGES, generated
from typer.testing import CliRunner

from memaudit import __version__
from memaudit.cli.app import app
from memaudit.cli.help import render_page
from memaudit.cli.report_files import FORMATS
from memaudit.config.sources import Layer, list_profiles, profiles_folder, resolve
from memaudit.docs.pages import list_topics, read_page
from memaudit.errors import MemauditError
from memaudit.gate.thresholds import GateVerdict, Verdict, exit_code

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGE_FILES = sorted(DOCS.glob("*.md"))
DOCUMENTS = [ROOT / "README.md", *PAGE_FILES, *sorted((ROOT / "examples").rglob("README.md"))]
PATHS = Layer(source="flag", values={"model": "model", "data": "data.jsonl"})
INTERRUPTED, TERMINATED = 130, 143
OTHER_FLAGS = {"--help", "--version", "--install-completion", "--show-completion"}
OTHER_FLAGS |= {"--bench", "--engine", "--target"}
"""Flags in the documentation that belong to no command: those of memaudit itself, and of tools."""


def fenced(mark: str) -> str:
    """The fenced block that follows a comment in the README."""
    found = re.search(rf"<!-- {re.escape(mark)} -->\n```\w*\n(.*?)\n```\n", README, re.DOTALL)
    assert found, f"README.md has no fenced block after <!-- {mark} -->"
    return found[1]


def section(topic: str, heading: str) -> str:
    """The part of a page below a heading."""
    page = read_page(topic)
    match = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.M)
    assert match, f"{topic}.md has no section {heading}"
    return match[1]


def prose(markdown: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S)


def anchors(markdown: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", prose(markdown), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its full name."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name}{word} ")
        else:
            yield f"{name}{word}", command


def errors(kind: type[MemauditError] = MemauditError) -> Iterator[type[MemauditError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from errors(below)


def test_the_formats_are_all_described() -> None:
    rows = re.findall(r"^\| (`.+?) \|", section("reports", "Formats"), re.M)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(FORMATS)


def test_every_profile_is_listed_and_valid() -> None:
    profiles = list_profiles()
    assert set(profiles) == {path.stem for path in (ROOT / "profiles").glob("*.toml")}
    for name, layer in profiles.items():
        assert layer.about, f"profile {name} does not say what it is for"
        resolve([layer, PATHS])


@pytest.mark.parametrize("page", ["commands", "README"])
def test_the_table_of_exit_codes_is_complete(page: str) -> None:
    text = section("commands", "Exit codes") if page == "commands" else README
    listed = re.findall(r"^\| (\d+) \| .+ \|$", text, re.M)
    verdicts: tuple[Verdict, ...] = ("pass", "fail", "inconclusive")
    judged = {
        exit_code([GateVerdict("max-exact", 0.1, "none", 0.0, 0.0, verdict, "")])
        for verdict in verdicts
    }
    raised = {error.exit_code for error in errors()}
    assert [int(code) for code in listed] == sorted(judged | raised | {INTERRUPTED, TERMINATED})


def test_every_command_and_flag_is_documented() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    words = set(re.findall(r"--[a-z][a-z-]*", text))
    for name, command in commands(typer.main.get_command(app)):
        assert f"`{name.split()[0]}" in README, name
        flags = {flag for option in command.params for flag in option.opts if flag[:2] == "--"}
        assert flags <= words, f"{name}: not documented: {sorted(flags - words)}"


def test_the_documentation_names_only_flags_that_exist() -> None:
    known = set(OTHER_FLAGS)
    for _, command in commands(typer.main.get_command(app)):
        known |= {flag for option in command.params for flag in option.opts}
    for path in (ROOT / "README.md", *PAGE_FILES):
        named = set(re.findall(r"`(--[a-z][a-z-]*)", prose(path.read_text(encoding="utf-8"))))
        assert named <= known, f"{path.name}: {sorted(named - known)}"


@pytest.mark.parametrize("mark", PAGES)
def test_the_tables_of_settings_are_those_of_the_settings(mark: str) -> None:
    """Where this fails, run ``python tests/support/settings_page.py``."""
    file, tables = PAGES[mark]
    assert generated((DOCS / file).read_text(encoding="utf-8"), mark) == tables()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file) if file else path
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text(encoding="utf-8")), target


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


def test_help_lists_every_page_in_a_line() -> None:
    result = CliRunner().invoke(app, ["help"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()[2:]
    assert [line.split()[0] for line in lines] == [path.stem for path in PAGE_FILES]
    assert all(len(line) <= 100 and len(line.split()) > 2 for line in lines)


@pytest.mark.parametrize("topic", list_topics())
def test_help_shows_a_page(topic: str) -> None:
    raw = CliRunner().invoke(app, ["help", topic, "--format", "markdown"])
    assert raw.exit_code == 0
    assert raw.stdout == (DOCS / f"{topic}.md").read_text(encoding="utf-8")
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["help", topic])
    assert shown.exit_code == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "\x1b" not in shown.stdout
    assert "<!--" not in shown.stdout


def test_a_link_to_a_page_is_shown_as_a_command() -> None:
    page = "See [the gates](gates.md#baselines) and [Slonski](https://arxiv.org/abs/1)."
    assert render_page(page, width=100, color=False) == (
        "See the gates (`memaudit help gates`) and Slonski (https://arxiv.org/abs/1).\n"
    )
    assert "\x1b[" in render_page("# Heading", width=80, color=True)


@pytest.mark.parametrize("words", [["help", "../README"], ["help", "gates", "--format", "html"]])
def test_help_refuses_what_it_does_not_have(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    choices = list_topics() if len(words) == 2 else ("terminal", "markdown")
    assert all(choice in result.stderr for choice in choices)


def test_help_needs_no_torch() -> None:
    script = (
        "import sys; from memaudit.cli.app import app; "
        "app(['help', 'gates'], standalone_mode=False); "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Gates" in done.stdout


def test_h_is_help_everywhere() -> None:
    names = [name for name, _ in commands(typer.main.get_command(app))]
    for name in ["", "diagnose", "baseline", *names]:
        result = CliRunner().invoke(app, [*name.split(), "-h"])
        assert result.exit_code == 0, name
        assert "-h, --help" in result.stdout, name


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
    named = re.findall(r"`(tests/[\w/.]+)`", section("security", "Threat model"))
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
    assert {f"memaudit/docs/{path.name}" for path in PAGE_FILES} <= held
    assert profiles | {"memaudit/report/report.schema.json", "memaudit/cli/app.py"} <= held
    assert any(name.endswith("/licenses/LICENSE") for name in held)
