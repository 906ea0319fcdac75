"""The command ``verify``: whether a finished run is still what it was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from memaudit.cli.errors import INCONCLUSIVE, Streams, border
from memaudit.cli.options import KeyFile, Verbose
from memaudit.system.network import go_offline


def verify(
    run: Annotated[Path, typer.Argument(help="Run folder of a finished scan.", metavar="RUN")],
    model: Annotated[
        str | None, typer.Option(help="Where the model lies now, if not where it was audited.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Where the base of an adapter lies now, likewise.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Where the reference lies now, likewise.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Where the data lie now, if not where they were.")
    ] = None,
    controls: Annotated[
        Path | None, typer.Option(help="Where the controls lie now, likewise.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 4 if anything recorded could not be checked.")
    ] = False,
    key_file: KeyFile = None,
    verbose: Verbose = False,
) -> None:
    """Compare RUN, its model and its data with the hashes that were recorded.

    Exits 0 if all that is at hand is as recorded, 1 if something differs, 2 if RUN is no finished
    run or a place that a flag names is not there or cannot be read, and with --strict 4 if nothing
    differs and not everything was at hand.
    """
    with border(verbose):
        go_offline(os.environ)  # it fetches nothing, whatever a report names
        from memaudit.data.project_key import kept_key
        from memaudit.run.verify import Places, verify_run
        from memaudit.run.verify_table import render_integrity
        from memaudit.system.home import settings_folder

        key = kept_key(key_file, settings_folder())
        integrity = verify_run(run, Places(model, base, reference, data, controls), key)
        streams = Streams(quiet=False, verbose=verbose)
        shown = render_integrity(integrity, width=streams.width, color=streams.color)
        typer.echo(shown, nl=False)
        incomplete = strict and integrity.unchecked > 0
    raise typer.Exit(integrity.exit_code or (INCONCLUSIVE if incomplete else 0))
