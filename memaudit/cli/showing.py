"""Finished runs and diagnoses, in any format: what scan, demo, report and diagnose print.

Knows the names of the formats. Knows nothing of how a run is made: it has been read back from its
folder, so that every command shows the same.
"""

from __future__ import annotations

import shlex
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
    """Raise UsageError for a format that does not exist, before anything is spent."""
    if output_format not in FORMATS:
        raise UsageError(
            f"--format {output_format}: choose {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )


def show(run: StoredRun, output_format: str, streams: Streams) -> None:
    """Put one document on stdout, and nothing else."""
    text = document(run, output_format, streams)
    if (outlet := stdout_outlet()) is not None:
        outlet.again = shlex.join(["memaudit", "report", str(run.folder)])
    # A file is the same everywhere, line ends included; a table is what a terminal can show.
    typer.echo(text if output_format == "table" else text.encode("utf-8"), nl=False)


def document(run: StoredRun, output_format: str, streams: Streams) -> str:
    """The run in one of `FORMATS`."""
    found, samples = run.document, run.samples
    if output_format == "json":
        from memaudit.report.report_json import document_text

        return document_text(found)
    if output_format == "csv":
        from memaudit.report.samples_csv import to_csv

        return to_csv(samples)
    if output_format == "jsonl":
        from memaudit.report.samples_csv import to_jsonl

        return to_jsonl(samples)
    if output_format == "markdown":
        from memaudit.report.markdown_summary import to_markdown

        return to_markdown(found, samples)
    if output_format == "sarif":
        from memaudit.report.sarif_log import to_sarif

        return to_sarif(found, samples)
    if output_format == "junit":
        from memaudit.report.junit_xml import to_junit

        return to_junit(found)
    if output_format == "github":
        from memaudit.report.annotations import to_annotations

        return to_annotations(found)
    if output_format == "cyclonedx":
        from memaudit.report.cyclonedx import to_cyclonedx

        return to_cyclonedx(found)
    if output_format == "html":
        from memaudit.report.page import to_html
        from memaudit.run.diagnoses import read_diagnoses

        return to_html(found, samples, read_diagnoses(run))
    from memaudit.report.table import render_table

    return render_table(found, samples, width=streams.width, color=streams.color)


def check_diagnosis_format(output_format: str) -> None:
    """Raise UsageError for a format that no diagnosis has."""
    if output_format not in ("table", "json"):
        raise UsageError(f"--format {output_format}: choose table or json")


def show_diagnosis(record: DiagnosisRecord, output_format: str, streams: Streams) -> None:
    """Put a diagnosis on stdout."""
    from memaudit.report.diagnosis_json import diagnosis_text
    from memaudit.report.diagnosis_table import render_diagnosis

    if output_format == "json":
        shown = diagnosis_text(record)
    else:
        shown = render_diagnosis(record, width=streams.width, color=streams.color)
    typer.echo(shown, nl=False)
