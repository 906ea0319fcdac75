"""The command ``merge``: one run of the shards of a scan."""

from __future__ import annotations

from functools import partial
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
        from memaudit.run_folder import choose_folder, make_folder, remove_empty
        from memaudit.team import require_one_process
        from memaudit.unfinished import Unfinished

        require_one_process("merge")
        found = read_shards(shards)
        resolved = stored_settings(found[0].notes, flags, str(found[0].folder))
        folder = choose_folder(resolved.config.model_copy(update={"out": out}))
        named = resolved.config.model_copy(update={"out": folder})
        made = make_folder(folder)
        notes = merged_notes(found, folder, command_line())
        try:
            Unfinished.begin(folder, notes, partial(copy_work, found)).close()
        except BaseException:
            remove_empty(made)
            raise
        order = Order(resolved.model_copy(update={"config": named}), folder, merged=True)
        outcome = run_scan(order, output_format, Streams(quiet, verbose))
        code = 0 if outcome is None else outcome.result.exit_code
    raise typer.Exit(0 if exit_zero and code in (1, 4) else code)
