"""The command ``demo``: a scan of the shipped model, and checks of memaudit itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from memaudit.cli.errors import Streams, exit_on_error
from memaudit.cli.flags import Given, with_settings
from memaudit.cli.options import OneLine, Reports, Verbose
from memaudit.cli.report_files import Output
from memaudit.cli.running import ScanRequest, run_scan
from memaudit.config.settings import ScanConfig
from memaudit.errors import INCONCLUSIVE, UsageError
from memaudit.system.home import expand_home
from memaudit.system.network import go_offline

PROFILE = "demo"


@with_settings(
    ScanConfig,
    ("out", "target.device", "protocol.seed", "reveal"),
    helps={"reveal": "Show extracted records, which are invented."},
)
def demo(
    flags: Given,
    export: Annotated[
        Path | None,
        typer.Option(help="Write the model and its data to this folder instead of scanning."),
    ] = None,
    reports: Reports = None,
    quiet: OneLine = False,
    verbose: Verbose = False,
) -> None:
    """Scan a shipped model whose memory is known, and check memaudit by it.

    Exits 0 only if memaudit finds what is there and nothing else, and 4 otherwise.
    """
    with exit_on_error(verbose):
        output = Output.parse("table", reports)
        go_offline(os.environ)  # everything it needs is shipped
        from memaudit.config.sources import Layer, load_profile, resolve
        from memaudit.demo.checks import judge_instrument
        from memaudit.demo.checks_table import conclude, render_checks
        from memaudit.demo.shipped import demo_settings, export_files, read_truth

        if export is not None:
            try:
                folder = Path(expand_home(str(export)))
            except ValueError as error:
                raise UsageError(f"--export {export}: {error}") from None
            export_files(folder)
            typer.echo(f"Written to {folder}", err=True)
            return
        streams = Streams(quiet, verbose)
        shipped = Layer(source="demo", values=demo_settings())
        # Nothing in the working folder may change what is judged.
        layers = [load_profile(PROFILE), shipped, Layer(source="flag", values=flags)]
        outcome = run_scan(ScanRequest(resolve(layers)), output, streams)
        if outcome is None:  # a worker process
            return
        marks = [fold.marks for fold in outcome.prompts]
        checks = judge_instrument(outcome.result, marks, read_truth())
        code = 0 if all(check.holds for check in checks) else INCONCLUSIVE
        if quiet:
            typer.echo(conclude(checks))
        else:
            table = render_checks(checks, width=streams.width, color=streams.color)
            typer.echo(f"\n{table}", nl=False)
    raise typer.Exit(code)
