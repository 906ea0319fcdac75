"""The command line: flags to settings, results to stdout, errors to stderr and an exit code.

The only module that prints or exits. Heavy packages are imported inside the commands, so that
``--help`` and usage errors answer at once.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memaudit import __version__
from memaudit.errors import MemauditError, UsageError
from memaudit.options import (
    AllowPickle,
    Attacks,
    Base,
    BatchSize,
    Bos,
    ConfigFile,
    Controls,
    DataArgument,
    Device,
    Dtype,
    Folds,
    Limit,
    ModelArgument,
    Offline,
    Placement,
    PrefixTokens,
    ProfileName,
    Quiet,
    Revision,
    Seed,
    Set,
    SkipBadLines,
    Stride,
    SuffixTokens,
    TrustRemoteCode,
    Verbose,
    settings_of,
)

if TYPE_CHECKING:
    from memaudit.attack.campaign import Progress
    from memaudit.layers import ResolvedConfig

app = typer.Typer(
    name="memaudit",
    help="Audit a causal language model for memorized training data before it is released.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with locals would print audited text
    rich_markup_mode=None,
)

LOG_WIDTH = 100
"""Columns of a table that does not go to a terminal, where COLUMNS says nothing."""


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"memaudit {__version__}")
        raise typer.Exit


@app.command()
def scan(  # as many parameters as there are flags: Typer reads them from the signature
    model: ModelArgument = None,
    data: DataArgument = None,
    controls: Controls = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make.")] = None,
    profile: ProfileName = None,
    config_file: ConfigFile = None,
    generator: Annotated[
        Path | None, typer.Option(help="Run folder whose prompts are used; nothing is fitted.")
    ] = None,
    attacks: Attacks = None,
    prefix_tokens: PrefixTokens = None,
    suffix_tokens: SuffixTokens = None,
    placement: Placement = None,
    stride: Stride = None,
    limit: Limit = None,
    skip_bad_lines: SkipBadLines = False,
    device: Device = None,
    dtype: Dtype = None,
    bos: Bos = None,
    revision: Revision = None,
    base: Base = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    folds: Folds = None,
    seed: Seed = None,
    batch_size: BatchSize = None,
    max_exact: Annotated[
        float | None, typer.Option(help="Fail if more than this share is extracted exactly.")
    ] = None,
    gate_on: Annotated[
        str | None, typer.Option(help="What --max-exact judges: upper (of the interval), estimate.")
    ] = None,
    set_: Set = None,
    output_format: Annotated[
        str, typer.Option("--format", help="On stdout: table, json or csv.")
    ] = "table",
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Put audited text in the reports.")
    ] = False,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Exit 0 also when a gate fails or cannot tell.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Audit MODEL on DATA: fit the attacks, extract, report."""
    flags = settings_of(locals())
    with _border(verbose):
        _check_format(output_format)
        resolved = _resolve(flags, profile, config_file, set_)
        code = _run_scan(resolved, output_format, _Streams(quiet, verbose))
    raise typer.Exit(0 if exit_zero and code in (1, 4) else code)


@app.command()
def inspect(
    model: ModelArgument = None,
    data: DataArgument = None,
    controls: Controls = None,
    profile: ProfileName = None,
    config_file: ConfigFile = None,
    attacks: Attacks = None,
    prefix_tokens: PrefixTokens = None,
    suffix_tokens: SuffixTokens = None,
    placement: Placement = None,
    stride: Stride = None,
    limit: Limit = None,
    skip_bad_lines: SkipBadLines = False,
    device: Device = None,
    dtype: Dtype = None,
    bos: Bos = None,
    revision: Revision = None,
    base: Base = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    folds: Folds = None,
    seed: Seed = None,
    batch_size: BatchSize = None,
    set_: Set = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Load, check and plan: what would be audited, how, and at what cost. Changes nothing."""
    flags = settings_of(locals())
    with _border(verbose):
        with_data = "data" in flags or config_file is not None
        if not with_data:
            if controls is not None:
                raise UsageError("--controls without DATA: give the file to audit first")
            flags["data"] = "none given"
        resolved = _resolve(flags, profile, config_file, set_)
        from memaudit.inspection import inspect as run_inspection
        from memaudit.inspection_table import render_inspection
        from memaudit.target.failures import quiet_transformers

        with quiet_transformers():
            inspection = run_inspection(resolved.config, with_data=with_data)
        streams = _Streams(quiet, verbose)
        shown = render_inspection(inspection, width=streams.width, color=streams.color)
        typer.echo(shown, nl=False)


@app.command()
def profiles(
    name: Annotated[str | None, typer.Argument(help="Show this profile's settings.")] = None,
) -> None:
    """List the shipped profiles and what they set."""
    with _border(verbose=False):
        from memaudit.layers import list_profiles, load_profile, setting_lines

        if name is not None:
            typer.echo("\n".join(setting_lines(load_profile(name))))
            return
        for profile, layer in list_profiles().items():
            typer.echo(f"{profile}: {layer.about}")
            for line in setting_lines(layer):
                typer.echo(f"    {line}")


def main() -> None:
    """Entry point of the console script."""
    app()


def _resolve(
    flags: dict[str, Any], profile: str | None, config_file: Path | None, sets: list[str] | None
) -> ResolvedConfig:
    from memaudit.layers import layered, resolve

    layers = layered(flags, profile=profile, config_file=config_file, sets=sets or [])
    return resolve(layers)


def _check_format(output_format: str) -> None:
    if output_format not in ("table", "json", "csv"):
        raise UsageError(f"--format {output_format}: choose table, json or csv")


def _run_scan(resolved: ResolvedConfig, output_format: str, streams: _Streams) -> int:
    """Scan, write the run folder, print the result; returns the exit code."""
    from memaudit.layers import sourced_lines
    from memaudit.run_folder import choose_folder, make_folder, remove_empty, write_run
    from memaudit.scan import scan as run
    from memaudit.target.failures import quiet_transformers

    config = resolved.config
    if streams.verbose:
        for line in sourced_lines(resolved):
            streams.note(line)
    folder = choose_folder(config)
    made = make_folder(folder)
    try:
        with quiet_transformers():
            outcome = run(resolved, _command_line(), streams.progress())
        write_run(folder, outcome)
    finally:
        remove_empty(made)
    streams.note(f"Written to {folder}")
    with suppress(BrokenPipeError):  # a reader that has seen enough changes no verdict
        typer.echo(_document(outcome.result, output_format, streams), nl=False)
    return outcome.result.exit_code


def _document(result: Any, output_format: str, streams: _Streams) -> str:
    if output_format == "json":
        from memaudit.report.report_json import to_json

        return to_json(result)
    if output_format == "csv":
        from memaudit.report.samples_csv import iter_csv

        return "".join(iter_csv(result))
    from memaudit.report.table import render_table

    return render_table(result, width=streams.width, color=streams.color)


def _command_line() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


class _Streams:
    """What goes to stdout and stderr, and how wide and coloured."""

    def __init__(self, quiet: bool, verbose: bool) -> None:
        self.quiet = quiet
        self.verbose = verbose
        terminal = sys.stdout.isatty()
        self.color = terminal and not os.environ.get("NO_COLOR")
        self.width = _terminal_width() if terminal else _asked_width() or LOG_WIDTH

    def note(self, text: str) -> None:
        """A line on stderr, unless quiet."""
        if not self.quiet:
            typer.echo(text, err=True)

    def progress(self) -> Progress:
        """Bars on a terminal, lines in a log, nothing if quiet."""
        from rich.console import Console

        from memaudit.progress import Live, Log, Silent

        if self.quiet:
            return Silent()
        console = Console(stderr=True, no_color=not self.color or None)
        animated = console.is_terminal and not os.environ.get("NO_COLOR")
        return Live(console) if animated else Log(console)


def _asked_width() -> int | None:
    asked = os.environ.get("COLUMNS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else None


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size((LOG_WIDTH, 24)).columns


@contextmanager
def _border(verbose: bool) -> Iterator[None]:
    """Errors become a line on stderr and an exit code; nothing else of them is shown."""
    try:
        yield
    except MemauditError as error:
        typer.echo(f"memaudit: error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("memaudit: interrupted", err=True)
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # Whoever read stdout has seen enough. What is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except typer.Exit:
        raise
    except Exception as error:
        # The message of an unforeseen error may quote audited text, so only its place is told.
        if verbose:
            typer.echo("".join(traceback.format_tb(error.__traceback__)), nl=False, err=True)
        typer.echo(
            f"memaudit: internal error: {type(error).__name__} at {_innermost(error)}; "
            "run again with --verbose for the way there, and report it",
            err=True,
        )
        raise typer.Exit(3) from None


def _innermost(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
