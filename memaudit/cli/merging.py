"""The command ``merge``: combine the shards of a scan into one run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from memaudit.cli.errors import Streams, exit_on_error, leave
from memaudit.cli.flags import Given, with_settings
from memaudit.cli.options import ExitZero, Format, OneLine, Reports, Verbose
from memaudit.cli.report_files import Output
from memaudit.cli.resuming import given_key_file, stored_settings
from memaudit.cli.running import ScanRequest, command_line, scan_to_code
from memaudit.config.settings import ScanConfig


@with_settings(
    ScanConfig,
    ("out", "reveal", "target.trust_remote_code", "target.allow_pickle", "key_file"),
)
def merge(
    flags: Given,
    shards: Annotated[
        list[Path],
        typer.Argument(help="Run folders of all n shards (scan --shard i/n).", metavar="SHARD..."),
    ],
    output_format: Format = "table",
    reports: Reports = None,
    exit_zero: ExitZero = False,
    quiet: OneLine = False,
    verbose: Verbose = False,
) -> None:
    """Combine the shards of a scan: score, judge and report. The shards stay unchanged."""
    with exit_on_error(verbose):
        output = Output.parse(output_format, reports)
        from memaudit.data.project_key import find_key
        from memaudit.run.merge import copy_work, merged_notes, read_shards
        from memaudit.run.new_folder import begin_run, choose_folder
        from memaudit.system.home import settings_folder
        from memaudit.system.launcher import require_one_process

        require_one_process("merge")
        key = find_key(given_key_file(flags), settings_folder())
        parts = read_shards(shards, key)
        resolved = stored_settings(parts[0].notes, flags, str(parts[0].folder))
        folder = choose_folder(resolved.config.model_copy(update={"out": flags.get("out")}))
        config = resolved.config.model_copy(update={"out": folder})
        output.check_places(config, folder)
        notes = merged_notes(parts, folder, command_line())
        _, merged = begin_run(folder, notes, key, partial(copy_work, parts, key))
        merged.close()
        request = ScanRequest(resolved.model_copy(update={"config": config}), folder, merged=True)
        code = scan_to_code(request, output, Streams(quiet, verbose))
    leave(code, exit_zero=exit_zero)
