"""The command ``bench``: speed on this machine, compared with plain transformers."""

from __future__ import annotations

from typing import Annotated

import typer

from memaudit.cli.errors import Streams, exit_on_error
from memaudit.cli.flags import Given, with_settings
from memaudit.cli.options import ConfigFile, ProfileName, Quiet, Set, TableOrJson, Verbose
from memaudit.cli.running import note_unknown_variables, note_versions, resolve_settings, variables
from memaudit.cli.showing import check_choice
from memaudit.config.settings import ScanConfig
from memaudit.errors import UsageError

_SETTINGS = (
    *("model", "windows.prefix_tokens", "windows.suffix_tokens", "extraction.batch_size"),
    *("target.device", "target.dtype", "target.bos", "target.revision", "target.base"),
    *("target.trust_remote_code", "target.allow_pickle", "target.offline"),
)


@with_settings(ScanConfig, _SETTINGS, helps={"model": "As for scan (default: the model of demo)."})
def bench(
    flags: Given,
    timed_windows: Annotated[
        int | None,
        typer.Option(
            "--windows", min=2, help="Windows per run of extraction (default: about 2 s)."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of every method.")] = 5,
    generate_batches: Annotated[
        str | None,
        typer.Option(help="Batch sizes to try generate with, e.g. 32,64."),
    ] = None,
    profile: ProfileName = None,
    config_file: ConfigFile = None,
    set_: Set = None,
    output_format: TableOrJson = "table",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Time extraction and tuning of MODEL here, compared with plain transformers."""
    with exit_on_error(verbose):
        check_choice(output_format)
        batches = _batches(generate_batches) if generate_batches is not None else ()
        from memaudit.bench.bench_report import bench_to_json, render_bench
        from memaudit.bench.benchmark import benchmark
        from memaudit.bench.work import BenchSettings
        from memaudit.demo.shipped import demo_settings
        from memaudit.pipeline.window_settings import benchmark_windows
        from memaudit.target.failures import quiet_transformers

        if "model" not in flags | variables() and config_file is None:
            flags["model"] = demo_settings()["model"]
        flags["data"] = "none given"
        config = benchmark_windows(resolve_settings(flags, profile, config_file, set_).config)
        streams = Streams(quiet, verbose)
        note_unknown_variables(streams)
        note_versions(streams)
        with quiet_transformers():
            settings = BenchSettings(config, rounds, timed_windows, batches)
            measured = benchmark(settings, streams.progress())
        if output_format == "json":
            text = bench_to_json(measured)
        else:
            text = render_bench(measured, width=streams.width, color=streams.color)
        typer.echo(text, nl=False)


def _batches(text: str) -> tuple[int, ...]:
    try:
        batches = tuple(int(size) for size in text.split(","))
    except ValueError:
        batches = ()
    if not batches or min(batches) < 1:
        raise UsageError(f"--generate-batches {text}: give whole numbers, e.g. 32,64,128")
    return batches
