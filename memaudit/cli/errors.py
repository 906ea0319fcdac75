"""Streams, and the one place where errors become exit codes.

Knows terminals and the exception tree. Knows nothing of commands.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from memaudit.errors import FAILED, INCONCLUSIVE, MemauditError, UnsealedRunWarning
from memaudit.system.memory import short_of_memory
from memaudit.system.plain_text import neutral, shorten

if TYPE_CHECKING:
    from rich.console import Console

    from memaudit.run.record import Display

LONGEST_LINE = 8_000
"""Limit on the characters of a message; two paths of the longest allowed length exceed it."""
LOG_WIDTH = 100
"""Width of a table that does not go to a terminal, unless COLUMNS is set."""
_NO = ("", "0", "false", "no")


class Terminated(BaseException):
    """Raised on SIGTERM, for example from a scheduler or a launcher."""


class Streams:
    """Width and colour of stdout, and what is written to stderr."""

    def __init__(self, quiet: bool, verbose: bool) -> None:
        self.quiet = quiet
        self.verbose = verbose
        terminal = sys.stdout is not None and sys.stdout.isatty()
        colorless = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self.color = terminal and not colorless
        self.width = _terminal_width() if terminal else _columns_width() or LOG_WIDTH
        self.check_stop: Callable[[], None] | None = None
        """Called at every step of a stage; raises if the user asked to stop."""

    def note(self, text: str) -> None:
        """Print a line on stderr, unless quiet."""
        if not self.quiet:
            typer.echo(_line(text), err=True)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, even if quiet."""
        typer.echo(_line(f"Warning: {text}"), err=True)

    def progress(self) -> Display:
        """Return progress bars on a terminal, lines in a log, nothing if quiet."""
        from rich.console import Console

        from memaudit.progress import Checked, Live, Log, Silent

        if self.quiet:
            plain: Silent | Live | Log = Silent()
        else:
            console = Console(stderr=True, no_color=not self.color or None)
            plain = Live(console) if _is_animated(console) else Log(console)
        return plain if self.check_stop is None else Checked(plain, self.check_stop)


def _is_animated(console: Console) -> bool:
    """Return True if lines may be redrawn: only on a terminal, and not in CI, which logs each one.

    Rich lets FORCE_COLOR, TTY_COMPATIBLE and TTY_INTERACTIVE turn a file into a terminal.
    """
    allowed = not os.environ.get("NO_COLOR") and os.environ.get("CI", "").lower() in _NO
    return allowed and console.file.isatty() and console.is_terminal and console.is_interactive


def _columns_width() -> int | None:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() and int(columns) > 0 else None


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size((LOG_WIDTH, 24)).columns


@contextmanager
def exit_on_error(verbose: bool) -> Iterator[None]:
    """Turn errors into a line on stderr and an exit code; show nothing else of them."""
    try:
        with short_of_memory(), _unsealed_runs_named():
            yield
    except MemauditError as error:
        typer.echo(_line(f"memaudit: error: {error}"), err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("memaudit: interrupted", err=True)
        raise typer.Exit(130) from None
    except Terminated:
        typer.echo("memaudit: terminated", err=True)
        raise typer.Exit(143) from None
    except (typer.Exit, SystemExit):
        raise
    except BaseException as error:  # a panic in a tokenizer's Rust code is not an Exception
        # The message of an unforeseen error may quote audited text, so only its location is shown.
        if verbose:
            typer.echo("".join(traceback.format_tb(error.__traceback__)), nl=False, err=True)
        typer.echo(
            f"memaudit: internal error: {type(error).__name__} at {_innermost(error)}; "
            "run again with --verbose for a traceback, and report it",
            err=True,
        )
        raise typer.Exit(3) from None


@contextmanager
def _unsealed_runs_named() -> Iterator[None]:
    """Print a line on stderr, even if quiet, for each run that no key at hand vouches for.

    It is printed at the end: what loads a model may hide stderr.
    """
    named: dict[str, None] = {}
    with warnings.catch_warnings():
        show_others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *more: Any, **also: Any) -> None:
            if issubclass(category, UnsealedRunWarning):
                named[str(message)] = None
            else:
                show_others(message, category, *more, **also)

        warnings.simplefilter("always", UnsealedRunWarning)
        warnings.showwarning = show
        try:
            yield
        finally:
            for line in named:
                typer.echo(_line(f"memaudit: warning: {line}"), err=True)


def _line(text: str) -> str:
    """Return a message on one line; quoted names of files may contain anything."""
    return shorten(neutral(text), LONGEST_LINE)


def leave(code: int, *, exit_zero: bool) -> NoReturn:
    """Exit with the code of a scan; ``exit_zero`` ignores failed and inconclusive gates."""
    raise typer.Exit(0 if exit_zero and code in (FAILED, INCONCLUSIVE) else code)


def _innermost(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
