"""The command ``report``: show a finished run, or one of its diagnoses, in any format."""

from __future__ import annotations

from typing import Annotated

import typer

from memaudit.cli.errors import Streams, exit_on_error
from memaudit.cli.options import Format, OneLine, Reports, RunFolder, Verbose
from memaudit.cli.report_files import Output
from memaudit.cli.showing import (
    check_choice,
    require_run,
    show,
    show_diagnosis,
)
from memaudit.errors import UsageError


def report(
    run: RunFolder,
    diagnosis: Annotated[
        str | None, typer.Option(help="Show this diagnosis of the run instead: latent, layers, ...")
    ] = None,
    output_format: Format = "table",
    reports: Reports = None,
    quiet: OneLine = False,
    verbose: Verbose = False,
) -> None:
    """Show a finished run again, as the scan did. Exits 0 whatever the run found."""
    with exit_on_error(verbose):
        if diagnosis is not None:
            check_choice(output_format)
            if reports:
                raise UsageError("--report with --diagnosis: use --format and redirect stdout")
        output = Output.parse(output_format, reports)
        require_run(run)
        from memaudit.run.baselines import config_of_run
        from memaudit.run.load import read_run

        streams = Streams(quiet, verbose)
        if diagnosis is None:
            stored = read_run(run)
            output.check_places(config_of_run(stored), run)
            show(stored, output, streams)
            return
        from memaudit.report.diagnosis import DIAGNOSES
        from memaudit.run.diagnoses import read_diagnosis

        name = next((known for known in DIAGNOSES if known == diagnosis), None)
        if name is None:
            raise UsageError(f"--diagnosis {diagnosis}: choose {', '.join(DIAGNOSES)}")
        record = read_diagnosis(read_run(run), name)
        if record is None:
            raise UsageError(
                f"{run}: has no such diagnosis; make it with memaudit diagnose {name} {run}"
            )
        show_diagnosis(record, output_format, streams)
