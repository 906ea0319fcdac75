"""The command ``report``: a finished run once more, in any format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memaudit.cli.border import Streams, border
from memaudit.cli.options import Format, Verbose
from memaudit.cli.showing import check_format, show


def report(
    run: Annotated[Path, typer.Argument(help="A run folder that scan wrote.", metavar="RUN")],
    output_format: Format = "table",
    verbose: Verbose = False,
) -> None:
    """Render a finished run again, as the scan did. Exits 0 whatever it found."""
    with border(verbose):
        check_format(output_format)
        from memaudit.stored_run import read_run

        show(read_run(run), output_format, Streams(quiet=True, verbose=verbose))
