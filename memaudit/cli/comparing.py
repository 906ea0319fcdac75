"""The commands ``compare`` and ``baseline``: what changed since an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memaudit.cli.errors import Streams, border
from memaudit.cli.options import Quiet, Verbose
from memaudit.errors import UsageError

if TYPE_CHECKING:
    from memaudit.gate.baseline import Baseline
    from memaudit.report.comparison_report import Place
    from memaudit.run.load import StoredRun

RunFolder = Annotated[Path, typer.Argument(help="Run folder of a finished scan.", metavar="RUN")]
ExitZero = Annotated[
    bool, typer.Option("--exit-zero", help="Exit 0 also with a regression, or where none is told.")
]

baseline_app = typer.Typer(
    name="baseline",
    help="Write and update the file that later runs are held against.",
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
        typer.Option(min=0, help="Call more newly extracted windows than this a regression."),
    ] = None,
    output_format: Annotated[
        str, typer.Option("--format", help="On stdout: table or json.")
    ] = "table",
    exit_zero: ExitZero = False,
    verbose: Verbose = False,
) -> None:
    """Hold RUN against BASELINE: which windows come out now that did not before.

    Exits 0 without a regression, 1 with one, 2 where the two cannot be compared, and 4 where there
    is too little to tell.
    """
    with border(verbose):
        if output_format not in ("table", "json"):
            raise UsageError(f"--format {output_format}: choose table or json")
        from memaudit.gate.comparison import compare as compare_audits
        from memaudit.report.comparison_report import comparison_to_json, render_comparison
        from memaudit.run.baselines import config_of_run, read_baseline

        before = read_baseline(baseline)
        stored, now = _read(run)
        _require_comparable(before, now, baseline)
        confidence = config_of_run(stored).scores.confidence
        places = _places(stored)
        clusters = {fingerprint: place.cluster for fingerprint, place in places.items()}
        found = compare_audits(
            before, now, clusters, confidence=confidence, max_new=max_new, void=_void(stored)
        )
        streams = Streams(quiet=True, verbose=verbose)
        if output_format == "json":
            shown = comparison_to_json(found, places)
        else:
            shown = render_comparison(found, places, width=streams.width, color=streams.color)
        typer.echo(shown, nl=False)
    raise typer.Exit(0 if exit_zero else found.exit_code)


@baseline_app.command()
def write(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="File to make; else stdout.")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make a baseline of RUN: a small sorted file that can be committed."""
    with border(verbose):
        from memaudit.run.baselines import to_text, write_baseline

        made = _read_meaningful(run)
        if out is None:
            typer.echo(to_text(made), nl=False)
            return
        try:
            taken = out.exists()
        except OSError as error:
            raise UsageError(f"--out {out}: cannot be written ({error.strerror})") from None
        if taken:
            raise UsageError(f"--out {out}: exists; memaudit baseline update changes it")
        write_baseline(out, made)
        Streams(quiet, verbose).note(f"Written to {out}: {_counted(made)}")


@baseline_app.command()
def update(
    file: Annotated[Path, typer.Argument(help="Baseline file to change.", metavar="FILE")],
    run: RunFolder,
    allow_looser: Annotated[
        bool, typer.Option("--allow-looser", help="Also take in what is newly extracted.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Tighten FILE: drop what RUN no longer extracts. Nothing comes in without the flag."""
    with border(verbose):
        from memaudit.gate.baseline import count_new, updated
        from memaudit.run.baselines import read_baseline_file, write_baseline

        before = read_baseline_file(file)
        now = _read_meaningful(run)
        _require_comparable(before, now, file)
        after = updated(before, now, looser=allow_looser)
        write_baseline(file, after)
        streams = Streams(quiet, verbose)
        gone = len(before.extracted.keys() - after.extracted.keys())
        streams.note(f"Written to {file}: {_counted(after)}, {gone:,} dropped")
        new = count_new(before, now.extracted.keys())
        if new and allow_looser:
            streams.note(f"{new:,} newly extracted came in")
        elif new:
            streams.note(f"{new:,} newly extracted stay out; --allow-looser takes them in")


def _read(folder: Path) -> tuple[StoredRun, Baseline]:
    from memaudit.run.baselines import baseline_of_run
    from memaudit.run.load import read_run

    stored = read_run(folder)
    return stored, baseline_of_run(stored)


def _read_meaningful(folder: Path) -> Baseline:
    """A run as a baseline. Raises UsageError where it means nothing, and so extracted nothing."""
    stored, made = _read(folder)
    if reason := _void(stored):
        raise UsageError(f"{folder}: the run means nothing, so it makes no baseline. {reason}")
    return made


def _void(stored: StoredRun) -> str:
    """Why a run means nothing; empty where it means something, or was not asked."""
    from memaudit.report.reading import void_reason

    return void_reason(stored.document)


def _require_comparable(before: Baseline, now: Baseline, where: Path) -> None:
    """The same terms; and of a baseline that does not know all its windows, the same windows."""
    from memaudit.gate.baseline import (
        require_own_windows,
        require_same_terms,
        require_same_windows,
    )

    require_same_terms(before.terms, now.terms, str(where))
    if before.fingerprints is None:
        require_same_windows(before, now.windows_digest, str(where))
        require_own_windows(before, now.fingerprints or (), str(where))


def _places(stored: StoredRun) -> dict[str, Place]:
    from memaudit.report.comparison_report import Place

    rows = stored.scored("data")
    columns = (rows[name].tolist() for name in ("sample_id", "line", "window", "cluster"))
    places = (Place(*row) for row in zip(*columns, strict=True))
    return dict(zip(rows["fingerprint"].tolist(), places, strict=True))


def _counted(baseline: Baseline) -> str:
    return f"{len(baseline.extracted):,} of {baseline.windows:,} windows extracted"
