"""Progress on stderr: bars with remaining time on a terminal, a line per stage in a log.

Knows Rich, stage names and sentences. Never gets any of the data, so it cannot show any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars


class Silent:
    """No progress output."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Run the stage."""
        yield lambda done: None

    def note(self, text: str) -> None:
        """Show nothing."""


class Checked:
    """Another progress output, with a check at every step, which may raise."""

    def __init__(self, progress: Silent | Log | Live, check: Callable[[], None]) -> None:
        self._progress = progress
        self._check = check

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Run the stage."""
        with self._progress.stage(name, total) as advance:

            def check_and_advance(done: int) -> None:
                self._check()
                advance(done)

            self._check()
            yield check_and_advance

    def note(self, text: str) -> None:
        """Show the sentence."""
        self._progress.note(text)


class Log:
    """Lines instead of bars, for logs and pipes: start, end, and progress at intervals."""

    def __init__(self, console: Console, interval: float = 30.0) -> None:
        """Print progress every ``interval`` seconds."""
        self._console = console
        self._interval = interval

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Print a line before and after the stage; a stage of one step gets only the second."""
        start = last_line = time.perf_counter()
        done = 0

        def advance(steps: int) -> None:
            nonlocal done, last_line
            done += steps
            now = time.perf_counter()
            if now - last_line >= self._interval and done < total:
                last_line = now
                left = (now - start) / done * (total - done)
                self.note(f"{name}: {done:,} of {total:,}, about {left:.0f} s left")

        if total > 1:
            self.note(f"{name}: {total:,} windows ...")
        yield advance
        self.note(f"{name}: done in {time.perf_counter() - start:.1f} s")

    def note(self, text: str) -> None:
        """Print a line."""
        _print_line(self._console, text)


class Live:
    """A bar per stage, with elapsed and remaining time."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, text: str) -> None:
        """Print a line between two bars."""
        _print_line(self._console, text)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar while the stage runs; its line stays."""
        bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        with bars:
            task = bars.add_task(name, total=total)
            yield lambda done: bars.advance(task, done)
            bars.update(task, completed=total)


def _print_line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
