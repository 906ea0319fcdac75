"""The command ``merge``: one run of the shards of a scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memaudit.cli.border import Streams, border
from memaudit.cli.options import (
    AllowPickle,
    ExitZero,
    Format,
    Out,
    Quiet,
    Reveal,
    TrustRemoteCode,
    Verbose,
    settings_of,
)
from memaudit.cli.resuming import stored_settings
from memaudit.cli.running import Order, command_line, run_scan
from memaudit.cli.showing import check_format


def merge(
    shards: Annotated[
        list[Path],
        typer.Argument(help="Run folders of scan --shard i/n, all n.", metavar="SHARD..."),
    ],
    out: Out = None,
    output_format: Format = "table",
    reveal: Reveal = False,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    exit_zero: ExitZero = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Put the shards of a scan together: score, judge and report. The shards stay as they are."""
    flags = settings_of(locals())
    with border(verbose):
        check_format(output_format)
        from memaudit.merging import copy_work, merged_notes, read_shards
        from memaudit.run_folder import choose_folder, make_folder
        from memaudit.unfinished import Unfinished

        found = read_shards(shards)
        notes = merged_notes(found, command_line())
        resolved = stored_settings(notes, flags, str(found[0].folder))
        named = resolved.config.model_copy(update={"out": out})
        folder = choose_folder(named)
        make_folder(folder)
        merged = Unfinished.begin(folder, notes)
        copy_work(found, merged)
        merged.close()
        order = Order(resolved.model_copy(update={"config": named}), folder, merged=True)
        outcome = run_scan(order, output_format, Streams(quiet, verbose))
        code = 0 if outcome is None else outcome.result.exit_code
    raise typer.Exit(0 if exit_zero and code in (1, 4) else code)
