"""Progress in a log: lines that a person can follow, and none that flood."""

from __future__ import annotations

import io

from rich.console import Console

from memaudit.progress import Live, Log


def test_a_log_gets_a_start_an_end_and_how_far() -> None:
    stream = io.StringIO()
    with Log(Console(file=stream, width=20), every=0.0).stage("none: extracting", 30) as advance:
        advance(10)
        advance(20)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "none: extracting: 30 windows ..."
    assert lines[1].startswith("none: extracting: 10 of 30, about ")
    assert lines[2].startswith("none: extracting: done in ")
    assert len(lines) == 3  # the last advance finished it: nothing is left to tell


def test_a_log_is_not_flooded() -> None:
    stream = io.StringIO()
    with Log(Console(file=stream), every=3600).stage("fitting", 1000) as advance:
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
