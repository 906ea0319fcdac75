"""Print finished runs and diagnoses in any format, for scan, demo, report and diagnose.

Knows how each format is made. Runs are read back from their folder, so that every command shows
the same.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from memaudit.cli.errors import LOG_WIDTH, Streams
from memaudit.cli.outlets import stdout_outlet
from memaudit.cli.report_files import Output, flags
from memaudit.errors import RunError, UsageError
from memaudit.system.files import write_whole
from memaudit.system.plain_text import neutral

if TYPE_CHECKING:
    from memaudit.report.diagnosis import DiagnosisRecord
    from memaudit.run.load import StoredRun


def require_run(folder: Path) -> None:
    """Raise UsageError if there is no such run folder, before anything heavy is loaded."""
    from memaudit.run.manifest import require_folder

    require_folder(folder)


def show(run: StoredRun, output: Output, streams: Streams) -> None:
    """Print one document on stdout, and write the files that were asked for.

    Quiet, a table is one line: the finding and the verdict. Raises RunError if a file fails.
    """
    from memaudit.report.reading import one_line

    again = ["memaudit", "report", str(run.folder)]
    if (outlet := stdout_outlet()) is not None:
        outlet.again = shlex.join(again)
    if output.format != "table":
        # Bytes keep a file the same everywhere, line ends included; a table adapts to the terminal.
        typer.echo(content(run, output.format), nl=False)
    elif streams.quiet:
        typer.echo(neutral(one_line(run.report)))
    else:
        typer.echo(document(run, "table", streams.width, streams.color), nl=False)
    for number, file in enumerate(output.files):
        try:
            write_whole(file.path, [content(run, file.format)])
        except OSError as error:
            rest = shlex.join([*again, *flags(output.files[number:])])
            raise RunError(
                f"{file.flag}: cannot be written ({error.strerror}); the run is whole: {rest}"
            ) from error


def content(run: StoredRun, output_format: str) -> bytes:
    """Return the run in one of the formats as the bytes of a file."""
    if output_format == "parquet":
        from memaudit.report.cells import to_parquet

        return to_parquet(run.samples)
    return document(run, output_format).encode("utf-8")


def document(
    run: StoredRun, output_format: str, width: int = LOG_WIDTH, color: bool = False
) -> str:
    """Return the run in one of the text formats; ``width`` and ``color`` are those of a table."""
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
    if output_format == "brief":
        from memaudit.report.brief import to_brief

        return to_brief(report)
    if output_format == "html":
        from memaudit.report.page import to_html
        from memaudit.run.diagnoses import read_diagnoses

        return to_html(report, windows, read_diagnoses(run))
    from memaudit.report.terminal import render_report

    return render_report(report, windows, width=width, color=color)


def check_choice(output_format: str, choices: Sequence[str] = ("table", "json")) -> None:
    """Raise UsageError for a format that is not among these."""
    if output_format not in choices:
        *others, last = choices
        raise UsageError(f"--format {output_format}: choose {', '.join(others)} or {last}")


def show_diagnosis(record: DiagnosisRecord, output_format: str, streams: Streams) -> None:
    """Print a diagnosis on stdout."""
    from memaudit.report.diagnosis_json import diagnosis_text
    from memaudit.report.terminal import render_diagnosis

    if output_format == "json":
        text = diagnosis_text(record)
    else:
        text = render_diagnosis(record, width=streams.width, color=streams.color)
    typer.echo(text, nl=False)
