"""The commands ``scan`` and ``inspect``.

Their flags come from the settings: a new flag is a ``Flag`` on a field in `memaudit.config`.
"""

from __future__ import annotations

import typer

from memaudit.cli.errors import Streams, exit_on_error, leave
from memaudit.cli.flags import Given, with_settings
from memaudit.cli.options import (
    ConfigFile,
    ExitZero,
    Format,
    OneLine,
    ProfileName,
    Quiet,
    Reports,
    Resume,
    Set,
    ShardOption,
    Verbose,
)
from memaudit.cli.report_files import Output
from memaudit.cli.resuming import GivenSettings, scan_or_resume
from memaudit.cli.running import (
    announce,
    note_unknown_variables,
    note_versions,
    resolve_settings,
    variables,
)
from memaudit.config.settings import ScanConfig
from memaudit.errors import UsageError


@with_settings(ScanConfig)
def scan(
    flags: Given,
    profile: ProfileName = None,
    resume: Resume = None,
    shard: ShardOption = None,
    config_file: ConfigFile = None,
    set_: Set = None,
    output_format: Format = "table",
    reports: Reports = None,
    exit_zero: ExitZero = False,
    quiet: OneLine = False,
    verbose: Verbose = False,
) -> None:
    """Audit MODEL on DATA: fit the attacks, extract, report."""
    with exit_on_error(verbose):
        output = Output.parse(output_format, reports)
        settings = GivenSettings(flags, profile, config_file, set_)
        code = scan_or_resume(settings, resume, shard, output, Streams(quiet, verbose))
    leave(code, exit_zero=exit_zero)


@with_settings(ScanConfig, without=("out", "generator", "key_file", "reveal", "gate"))
def inspect(
    flags: Given,
    profile: ProfileName = None,
    config_file: ConfigFile = None,
    set_: Set = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Check the inputs and estimate time and memory of a scan. Writes nothing."""
    with exit_on_error(verbose):
        with_data = "data" in flags | variables() or config_file is not None
        if not with_data:
            if "controls" in flags:
                raise UsageError("--controls without DATA: give the file to audit too")
            flags["data"] = "none given"
        resolved = resolve_settings(flags, profile, config_file, set_)
        streams = Streams(quiet, verbose)
        announce(f"checking {resolved.config.model}", streams)
        if with_data:
            from memaudit.data.inputs import check_inputs

            check_inputs(resolved.config)
        from memaudit.pipeline.inspect import inspect as run_inspection
        from memaudit.pipeline.inspect_table import render_inspection
        from memaudit.target.failures import quiet_transformers

        note_unknown_variables(streams)
        note_versions(streams)
        with quiet_transformers():
            inspection = run_inspection(resolved.config, with_data=with_data)
        table = render_inspection(inspection, width=streams.width, color=streams.color)
        typer.echo(table, nl=False)
