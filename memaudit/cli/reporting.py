"""The command ``report``: a finished run once more, in any format, or one of its diagnoses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memaudit.cli.errors import Streams, border
from memaudit.cli.options import Format, Verbose
from memaudit.cli.showing import check_diagnosis_format, check_format, show, show_diagnosis
from memaudit.errors import UsageError


def report(
    run: Annotated[Path, typer.Argument(help="A run folder that scan wrote.", metavar="RUN")],
    diagnosis: Annotated[
        str | None, typer.Option(help="Show this diagnosis of the run instead: latent, layers, ...")
    ] = None,
    output_format: Format = "table",
    verbose: Verbose = False,
) -> None:
    """Render a finished run again, as the scan did. Exits 0 whatever it found."""
    with border(verbose):
        if diagnosis is None:
            check_format(output_format)
        else:
            check_diagnosis_format(output_format)
        from memaudit.run.load import read_run

        streams = Streams(quiet=True, verbose=verbose)
        if diagnosis is None:
            show(read_run(run), output_format, streams)
            return
        from memaudit.report.diagnosis import DIAGNOSES
        from memaudit.run.diagnoses import read_diagnosis

        name = next((one for one in DIAGNOSES if one == diagnosis), None)
        if name is None:
            raise UsageError(f"--diagnosis {diagnosis}: choose {', '.join(DIAGNOSES)}")
        record = read_diagnosis(read_run(run), name)
        if record is None:
            raise UsageError(f"{run}: holds none; make it with memaudit diagnose {name} {run}")
        show_diagnosis(record, output_format, streams)
