"""Print finished runs and diagnoses in any format, for scan, demo, report and diagnose.

Knows the names of the formats. Runs are read back from their folder, so that every command shows
the same.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from memaudit.cli.errors import Streams
from memaudit.cli.outlets import stdout_outlet
from memaudit.errors import UsageError

if TYPE_CHECKING:
    from memaudit.report.diagnosis import DiagnosisRecord
    from memaudit.run.load import StoredRun

FORMATS = (
    *("table", "json", "csv", "jsonl", "html"),
    *("markdown", "sarif", "junit", "github", "cyclonedx"),
)


def check_format(output_format: str) -> None:
    """Raise UsageError for an unknown format, before any work is done."""
    if output_format not in FORMATS:
        raise UsageError(
            f"--format {output_format}: choose {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )


def require_run(folder: Path) -> None:
    """Raise UsageError if there is no such run folder, before anything heavy is loaded."""
    from memaudit.run.manifest import require_folder

    require_folder(folder)


def show(run: StoredRun, output_format: str, streams: Streams) -> None:
    """Print one document on stdout, and nothing else."""
    text = document(run, output_format, streams)
    if (outlet := stdout_outlet()) is not None:
        outlet.again = shlex.join(["memaudit", "report", str(run.folder)])
    # Bytes keep a file the same everywhere, line ends included; a table adapts to the terminal.
    typer.echo(text if output_format == "table" else text.encode("utf-8"), nl=False)


def document(run: StoredRun, output_format: str, streams: Streams) -> str:
    """Return the run in one of `FORMATS`."""
    report, windows = run.report, run.windows
    if output_format == "json":
        return report.text()
    if output_format == "csv":
        from memaudit.report.cells import to_csv

        return to_csv(run.samples)
    if output_format == "jsonl":
        from memaudit.report.cells import to_jsonl

        return to_jsonl(run.samples)
    if output_format == "markdown":
        from memaudit.report.markdown import to_markdown

        return to_markdown(report, windows)
    if output_format == "sarif":
        from memaudit.report.sarif_log import to_sarif

        return to_sarif(report, windows)
    if output_format == "junit":
        from memaudit.report.ci import to_junit

        return to_junit(report)
    if output_format == "github":
        from memaudit.report.ci import to_annotations

        return to_annotations(report)
    if output_format == "cyclonedx":
        from memaudit.report.cyclonedx import to_cyclonedx

        return to_cyclonedx(report)
    if output_format == "html":
        from memaudit.report.page import to_html
        from memaudit.run.diagnoses import read_diagnoses

        return to_html(report, windows, read_diagnoses(run))
    from memaudit.report.terminal import render_report

    return render_report(report, windows, width=streams.width, color=streams.color)


def check_table_or_json(output_format: str) -> None:
    """Raise UsageError for any other format."""
    if output_format not in ("table", "json"):
        raise UsageError(f"--format {output_format}: choose table or json")


def show_diagnosis(record: DiagnosisRecord, output_format: str, streams: Streams) -> None:
    """Print a diagnosis on stdout."""
    from memaudit.report.diagnosis_json import diagnosis_text
    from memaudit.report.terminal import render_diagnosis

    if output_format == "json":
        text = diagnosis_text(record)
    else:
        text = render_diagnosis(record, width=streams.width, color=streams.color)
    typer.echo(text, nl=False)
