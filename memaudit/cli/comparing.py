"""The commands ``compare`` and ``baseline``: changes since an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memaudit.cli.errors import Streams, exit_on_error
from memaudit.cli.options import Quiet, RunFolder, Verbose
from memaudit.cli.showing import check_choice, require_run
from memaudit.errors import UsageError

if TYPE_CHECKING:
    from memaudit.gate.baseline import Baseline
    from memaudit.gate.comparison import Comparison
    from memaudit.report.comparison_report import Place
    from memaudit.run.load import StoredRun

ExitZero = Annotated[
    bool, typer.Option("--exit-zero", help="Exit 0 even with a regression, or if inconclusive.")
]

_FORMATS = ("table", "json", "markdown", "junit")

baseline_app = typer.Typer(
    name="baseline",
    help="Write and update the file that later runs are compared with.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def compare(
    baseline: Annotated[
        Path, typer.Argument(help="Baseline file, or run folder.", metavar="BASELINE")
    ],
    run: RunFolder,
    max_new: Annotated[
        int | None,
        typer.Option(
            min=0, help="Report a regression if more samples than this are newly extracted."
        ),
    ] = None,
    output_format: Annotated[
        str,
        typer.Option("--format", help="Output on stdout: table, json, markdown or junit."),
    ] = "table",
    exit_zero: ExitZero = False,
    verbose: Verbose = False,
) -> None:
    """Compare RUN with BASELINE: which samples are newly extracted?

    Exits 0 without a regression, 1 with one, 2 if the two cannot be compared, and 4 if there is
    too little data to decide.
    """
    with exit_on_error(verbose):
        check_choice(output_format, _FORMATS)
        require_run(run)
        from memaudit.gate.baseline import require_comparable
        from memaudit.gate.comparison import compare as compare_audits
        from memaudit.run.baselines import config_of_run, read_baseline

        before = read_baseline(baseline)
        stored, now = _read(run)
        require_comparable(before, now.terms, now.fingerprints, str(baseline))
        confidence = config_of_run(stored).scores.confidence
        places = _places(stored)
        clusters = {fingerprint: place.cluster for fingerprint, place in places.items()}
        comparison = compare_audits(
            before, now, clusters, confidence=confidence, max_new=max_new, void=_void(stored)
        )
        text = _document(comparison, places, output_format, stored)
        typer.echo(text if output_format == "table" else text.encode("utf-8"), nl=False)
    raise typer.Exit(0 if exit_zero else comparison.exit_code)


def _document(
    comparison: Comparison, places: dict[str, Place], output_format: str, stored: StoredRun
) -> str:
    from memaudit.report import comparison_report as formats

    if output_format == "json":
        return formats.comparison_to_json(comparison, places)
    if output_format == "markdown":
        return formats.comparison_to_markdown(comparison, places)
    if output_format == "junit":
        return formats.comparison_to_junit(comparison, stored.report.run.started)
    streams = Streams(quiet=True, verbose=False)
    return formats.render_comparison(comparison, places, width=streams.width, color=streams.color)


@baseline_app.command()
def write(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="File to create (default: stdout).")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write a baseline of RUN: a small sorted file to commit."""
    with exit_on_error(verbose):
        require_run(run)
        from memaudit.run.baselines import to_text, write_baseline

        baseline = _read_meaningful(run)
        if out is None:
            typer.echo(to_text(baseline), nl=False)
            return
        try:
            exists = out.exists()
        except OSError as error:
            raise UsageError(f"--out {out}: cannot be written ({error.strerror})") from None
        if exists:
            raise UsageError(f"--out {out}: already exists; memaudit baseline update changes it")
        write_baseline(out, baseline)
        Streams(quiet, verbose).note(f"Written to {out}: {_counted(baseline)}")


@baseline_app.command()
def update(
    file: Annotated[Path, typer.Argument(help="Baseline file to change.", metavar="FILE")],
    run: RunFolder,
    allow_looser: Annotated[
        bool, typer.Option("--allow-looser", help="Also add newly extracted samples.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Tighten FILE: drop samples that RUN no longer extracts. Adds none without the flag.

    Takes over the samples that were added to the data or removed from it.
    """
    with exit_on_error(verbose):
        require_run(run)
        from memaudit.gate.baseline import (
            count_missing,
            count_new,
            data_note,
            overlap_of,
            require_comparable,
            updated,
        )
        from memaudit.report.wording import count
        from memaudit.run.baselines import read_baseline_file, write_baseline

        before = read_baseline_file(file)
        now = _read_meaningful(run)
        require_comparable(before, now.terms, now.fingerprints, str(file))
        if fault := overlap_of(before, now.fingerprints).fault:
            raise UsageError(f"{file}: cannot be updated from {run}: {fault}")
        after = updated(before, now, looser=allow_looser)
        write_baseline(file, after)
        streams = Streams(quiet, verbose)
        dropped = len(before.extracted.keys() - after.extracted.keys())
        streams.note(f"Written to {file}: {_counted(after)}, {dropped:,} dropped")
        if note := data_note(before, now.terms, now.fingerprints):
            streams.note(note)
        if new := count_new(before, now.extracted.keys()):
            added = count_missing(now.extracted, before.fingerprints)
            which = f" ({added:,} of them added to the data)" if added else ""
            done = "accepted" if allow_looser else "not accepted; use --allow-looser to accept"
            streams.note(f"{count(new, 'newly extracted sample')}{which} {done}")


def _read(folder: Path) -> tuple[StoredRun, Baseline]:
    from memaudit.run.baselines import baseline_of_run
    from memaudit.run.load import read_run

    stored = read_run(folder)
    return stored, baseline_of_run(stored)


def _read_meaningful(folder: Path) -> Baseline:
    """Return a run as a baseline. Raises UsageError if the run means nothing."""
    stored, baseline = _read(folder)
    if reason := _void(stored):
        raise UsageError(
            f"{folder}: the run means nothing, so no baseline can be made of it. {reason}"
        )
    return baseline


def _void(stored: StoredRun) -> str:
    """Return why a run means nothing; empty if it means something or was not checked."""
    from memaudit.report.reading import void_reason

    return void_reason(stored.report)


def _places(stored: StoredRun) -> dict[str, Place]:
    from memaudit.report.comparison_report import Place

    rows = stored.scored_samples("data")
    columns = (rows[name].tolist() for name in ("sample_id", "line", "cluster"))
    places = (Place(*row) for row in zip(*columns, strict=True))
    return dict(zip(rows["fingerprint"].tolist(), places, strict=True))


def _counted(baseline: Baseline) -> str:
    return f"{len(baseline.extracted):,} of {baseline.samples:,} samples extracted"
