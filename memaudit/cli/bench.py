"""The command ``bench``: what this machine makes of a model, beside other ways."""

from __future__ import annotations

from typing import Annotated

import typer

from memaudit.cli.errors import Streams, border
from memaudit.cli.options import (
    AllowPickle,
    Base,
    BatchSize,
    Bos,
    ConfigFile,
    Device,
    Dtype,
    Offline,
    PrefixTokens,
    ProfileName,
    Quiet,
    Revision,
    Set,
    SuffixTokens,
    TrustRemoteCode,
    Verbose,
    settings_of,
)
from memaudit.cli.running import note_versions, resolve_settings
from memaudit.errors import UsageError


def bench(
    model: Annotated[
        str | None,
        typer.Argument(help="As for scan; the model of demo where not given.", metavar="MODEL"),
    ] = None,
    timed_windows: Annotated[
        int | None,
        typer.Option("--windows", min=2, help="In a run of extraction; else about 2 s of them."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of every way.")] = 5,
    generate_batches: Annotated[
        str | None, typer.Option(help="Batch sizes that generate is tried at, as 32,64.")
    ] = None,
    profile: ProfileName = None,
    config_file: ConfigFile = None,
    prefix_tokens: PrefixTokens = None,
    suffix_tokens: SuffixTokens = None,
    device: Device = None,
    dtype: Dtype = None,
    bos: Bos = None,
    revision: Revision = None,
    base: Base = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    batch_size: BatchSize = None,
    set_: Set = None,
    output_format: Annotated[
        str, typer.Option("--format", help="On stdout: table or json.")
    ] = "table",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Time extraction and tuning of MODEL here, beside the same with transformers alone."""
    flags = settings_of(locals())
    with border(verbose):
        if output_format not in ("table", "json"):
            raise UsageError(f"--format {output_format}: choose table or json")
        batches = _batches(generate_batches) if generate_batches is not None else ()
        from memaudit.bench.bench_report import bench_to_json, render_bench
        from memaudit.bench.benchmark import benchmark
        from memaudit.bench.work import BenchSettings
        from memaudit.demo.shipped import demo_settings
        from memaudit.target.failures import quiet_transformers

        if model is None and config_file is None:
            flags["model"] = demo_settings()["model"]
        flags["data"] = "none given"
        config = resolve_settings(flags, profile, config_file, set_).config
        streams = Streams(quiet, verbose)
        note_versions(streams)
        with quiet_transformers():
            settings = BenchSettings(config, rounds, timed_windows, batches)
            found = benchmark(settings, streams.progress())
        if output_format == "json":
            shown = bench_to_json(found)
        else:
            shown = render_bench(found, width=streams.width, color=streams.color)
        typer.echo(shown, nl=False)


def _batches(given: str) -> tuple[int, ...]:
    try:
        batches = tuple(int(one) for one in given.split(","))
    except ValueError:
        batches = ()
    if not batches or min(batches) < 1:
        raise UsageError(f"--generate-batches {given}: give whole numbers, as 32,64,128")
    return batches
