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
    """One line when a long stage starts and one when it ends, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Run the stage between two lines; one that is too short to wait for gets one."""
        begun = time.perf_counter()
        if total > 1:
            self._console.print(f"{name}: {total:,} windows ...", markup=False, highlight=False)
        yield lambda done: None
        took = time.perf_counter() - begun
        self._console.print(f"{name}: done in {took:.1f} s", markup=False, highlight=False)


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
