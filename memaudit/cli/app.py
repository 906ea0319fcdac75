"""The command ``memaudit``: every subcommand, put together."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from memaudit import __version__
from memaudit.cli.auditing import inspect, scan
from memaudit.cli.bench import bench
from memaudit.cli.border import border
from memaudit.cli.comparing import baseline_app, compare
from memaudit.cli.demo import demo
from memaudit.cli.diagnosing import diagnose_app
from memaudit.cli.merging import merge
from memaudit.cli.reporting import report
from memaudit.cli.verify import verify

app = typer.Typer(
    name="memaudit",
    help="Audit a causal language model for memorized training data before it is released.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with locals would print audited text
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"memaudit {__version__}")
        raise typer.Exit


def profiles(
    name: Annotated[str | None, typer.Argument(help="Show this profile's settings.")] = None,
) -> None:
    """List the shipped profiles and what they set."""
    with border(verbose=False):
        from memaudit.layers import list_profiles, load_profile, setting_lines
        from memaudit.report.wording import neutral

        if name is not None:
            typer.echo("\n".join(map(neutral, setting_lines(load_profile(name)))))
            return
        for profile, layer in list_profiles().items():
            typer.echo(f"{profile}: {layer.about}")
            for line in setting_lines(layer):
                typer.echo(f"    {line}")


for command in (scan, demo, inspect, merge, report, compare, verify, bench, profiles):
    app.command()(command)
app.add_typer(baseline_app)
app.add_typer(diagnose_app)


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what it cannot encode is shown as an escape
            stream.reconfigure(errors="backslashreplace")
    app()
