"""Progress in a log: lines that a person can follow, and none that flood."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from memaudit.cli.errors import Streams
from memaudit.progress import Live, Log


def test_a_log_gets_a_start_an_end_and_how_far() -> None:
    stream = io.StringIO()
    with Log(Console(file=stream, width=20), interval=0.0).stage("none: extracting", 30) as advance:
        advance(10)
        advance(20)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "none: extracting: 30 windows ..."
    assert lines[1].startswith("none: extracting: 10 of 30, about ")
    assert lines[2].startswith("none: extracting: done in ")
    assert len(lines) == 3  # the last advance finished it: nothing is left to tell


def test_a_log_is_not_flooded() -> None:
    stream = io.StringIO()
    with Log(Console(file=stream), interval=3600).stage("fitting", 1000) as advance:
        for _ in range(1000):
            advance(1)
    assert len(stream.getvalue().splitlines()) == 2


def test_bars_show_the_stage_and_its_count() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=True)
    with Live(console).stage("none: extracting", 30) as advance:
        advance(30)
    assert "none: extracting" in stream.getvalue()
    assert "30/30" in stream.getvalue()


class Terminal(io.StringIO):
    """A stream that says it leads to a terminal."""

    def isatty(self) -> bool:
        return True


VARIABLES = ("NO_COLOR", "FORCE_COLOR", "CI", "TERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


@pytest.mark.parametrize("forced", ["", "FORCE_COLOR=1", "TTY_COMPATIBLE=1", "TTY_INTERACTIVE=1"])
def test_a_file_gets_lines_whatever_colour_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, forced: str
) -> None:
    set_variables(monkeypatch, forced)
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with Streams(quiet=False, verbose=False).progress().stage("fitting", 3) as advance:
        advance(3)
    assert log.getvalue().startswith("fitting: 3 windows ...\nfitting: done in ")
    assert "\x1b" not in log.getvalue()


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("", Live),
        ("CI=false", Live),
        ("FORCE_COLOR=1", Live),
        ("CI=true", Log),
        ("NO_COLOR=1", Log),
        ("NO_COLOR=1 FORCE_COLOR=1", Log),
        ("TERM=dumb", Log),
        ("TTY_INTERACTIVE=0", Log),
    ],
)
def test_a_terminal_gets_bars_unless_somebody_says_no(
    monkeypatch: pytest.MonkeyPatch, given: str, kind: type[object]
) -> None:
    set_variables(monkeypatch, given)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(Streams(quiet=False, verbose=False).progress(), kind)


def set_variables(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for assignment in given.split():
        monkeypatch.setenv(*assignment.split("="))
