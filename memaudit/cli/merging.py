"""The command ``merge``: one run of the shards of a scan."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from memaudit.cli.errors import Streams, border, leave
from memaudit.cli.options import (
    AllowPickle,
    ExitZero,
    Format,
    KeyFile,
    Out,
    Quiet,
    Reveal,
    TrustRemoteCode,
    Verbose,
    settings_of,
)
from memaudit.cli.resuming import said_key_file, stored_settings
from memaudit.cli.running import Order, command_line, scan_to_code
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
    key_file: KeyFile = None,
    exit_zero: ExitZero = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Put the shards of a scan together: score, judge and report. The shards stay as they are."""
    flags = settings_of(locals())
    with border(verbose):
        check_format(output_format)
        from memaudit.data.project_key import find_key
        from memaudit.distributed import require_one_process
        from memaudit.run.merge import copy_work, merged_notes, read_shards
        from memaudit.scan.write import begin_run, choose_folder
        from memaudit.system.home import settings_folder

        require_one_process("merge")
        key = find_key(said_key_file(flags), settings_folder())
        found = read_shards(shards, key)
        resolved = stored_settings(found[0].notes, flags, str(found[0].folder))
        folder = choose_folder(resolved.config.model_copy(update={"out": out}))
        named = resolved.config.model_copy(update={"out": folder})
        notes = merged_notes(found, folder, command_line())
        _, merged = begin_run(folder, notes, key, partial(copy_work, found, key))
        merged.close()
        order = Order(resolved.model_copy(update={"config": named}), folder, merged=True)
        code = scan_to_code(order, output_format, Streams(quiet, verbose))
    leave(code, exit_zero=exit_zero)
