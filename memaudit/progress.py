"""Progress on stderr: bars with a time to finish on a terminal, a line per stage in a log.

Knows Rich and stage names. Is handed nothing of the data, so nothing of it can show.
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
    """No progress at all."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Run the stage."""
        yield lambda done: None


class Log:
    """Lines instead of bars, for logs and pipes: start, end, and now and then how far it is."""

    def __init__(self, console: Console, every: float = 30.0) -> None:
        self._console = console
        self._every = every

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Run the stage between two lines; one that is too short to wait for gets one."""
        begun = told = time.perf_counter()
        done = 0

        def advance(newly: int) -> None:
            nonlocal done, told
            done += newly
            now = time.perf_counter()
            if now - told >= self._every and done < total:
                told = now
                left = (now - begun) / done * (total - done)
                self._say(f"{name}: {done:,} of {total:,}, about {left:.0f} s left")

        if total > 1:
            self._say(f"{name}: {total:,} windows ...")
        yield advance
        self._say(f"{name}: done in {time.perf_counter() - begun:.1f} s")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Live:
    """A bar per stage, with elapsed and remaining time."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar while the stage runs, and leave its line behind."""
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
