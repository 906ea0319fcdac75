"""The command ``memaudit`` with all its subcommands."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from memaudit import __version__
from memaudit.cli.auditing import inspect, scan
from memaudit.cli.bench import bench
from memaudit.cli.comparing import baseline_app, compare
from memaudit.cli.demo import demo
from memaudit.cli.diagnosing import diagnose_app
from memaudit.cli.errors import exit_on_error
from memaudit.cli.flags import GroupedCommand
from memaudit.cli.help import show_help
from memaudit.cli.merging import merge
from memaudit.cli.outlets import guard_standard_streams
from memaudit.cli.reporting import report
from memaudit.cli.verify import verify
from memaudit.system.network import go_offline, hide_kernels, turn_telemetry_off
from memaudit.system.threads import shorten_spinning

app = typer.Typer(
    name="memaudit",
    help="Audit a causal language model for memorized training data before it is released.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},  # subcommands inherit it
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
    with exit_on_error(verbose=False):
        from memaudit.config.sources import list_profiles, load_profile, setting_lines
        from memaudit.system.plain_text import neutral

        if name is not None:
            typer.echo("\n".join(map(neutral, setting_lines(load_profile(name)))))
            return
        for profile, layer in list_profiles().items():
            typer.echo(f"{profile}: {layer.about}")
            for line in setting_lines(layer):
                typer.echo(f"    {line}")


for command in (scan, demo, inspect, merge, report, compare, verify, bench, profiles):
    is_long = command in (scan, inspect, bench)
    app.command(cls=GroupedCommand if is_long else None)(command)
app.command(name="help")(show_help)
app.add_typer(baseline_app)
app.add_typer(diagnose_app)


def main() -> None:
    """Entry point of the console script."""
    shorten_spinning(os.environ)
    turn_telemetry_off(os.environ)
    if "--offline" in sys.argv[1:]:  # before any library that reads the variables is imported
        go_offline(os.environ)
    if "--trust-remote-code" not in sys.argv[1:] or "--offline" in sys.argv[1:]:
        hide_kernels()  # before transformers is imported; only these flags decide
    stdout = guard_standard_streams()
    try:
        with exit_on_error(verbose=False):
            app()
    except (typer.Exit, SystemExit) as end:
        code = end.exit_code if isinstance(end, typer.Exit) else end.code
        sys.stdout.flush()
        if stdout.fault:
            again = f"; the run is whole: {stdout.again}" if stdout.again else ""
            typer.echo(
                f"memaudit: error: stdout cannot be written: {stdout.fault}{again}", err=True
            )
        # Nobody can rely on a pass that was not printed; the other codes still hold.
        sys.exit(3 if stdout.fault and not code else code)
