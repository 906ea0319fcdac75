"""The command ``verify``: check that a finished run is unchanged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from memaudit.cli.errors import Streams, exit_on_error
from memaudit.cli.flags import Given, with_settings
from memaudit.cli.options import RunFolder, Verbose
from memaudit.cli.running import named_key_file
from memaudit.cli.showing import require_run
from memaudit.config.settings import ScanConfig
from memaudit.errors import INCONCLUSIVE
from memaudit.system.network import go_offline


@with_settings(ScanConfig, ("key_file",))
def verify(
    flags: Given,
    run: RunFolder,
    model: Annotated[
        str | None, typer.Option(help="Location of the model, if it has moved since the scan.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Location of an adapter's base, if it has moved.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Location of the reference, if it has moved.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Location of the data, if they have moved.")
    ] = None,
    controls: Annotated[
        Path | None, typer.Option(help="Location of the controls, if they have moved.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 4 if anything recorded could not be checked.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Compare RUN, its model and its data with the recorded hashes.

    Exits 0 if everything available is as recorded, 1 if something differs, 2 if RUN is not a
    finished run or a location given by a flag cannot be read, and 4 if nothing differs but your
    project key did not seal the run or, with --strict, not everything was available.
    """
    with exit_on_error(verbose):
        go_offline(os.environ)  # it fetches nothing, whatever a report names
        require_run(run)
        from memaudit.data.project_key import kept_key
        from memaudit.run.verify import Places, verify_run
        from memaudit.run.verify_table import render_integrity
        from memaudit.system.home import settings_folder

        key = kept_key(named_key_file(flags), settings_folder())
        integrity = verify_run(run, Places(model, base, reference, data, controls), key)
        streams = Streams(quiet=False, verbose=verbose)
        table = render_integrity(integrity, width=streams.width, color=streams.color)
        typer.echo(table, nl=False)
        incomplete = strict and integrity.unchecked > 0
    raise typer.Exit(integrity.exit_code or (INCONCLUSIVE if incomplete else 0))
