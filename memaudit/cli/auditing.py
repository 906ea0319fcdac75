"""The commands ``scan`` and ``inspect``.

Typer reads flags from signatures, so each command lists its own.
"""

from __future__ import annotations

import typer

from memaudit.cli.errors import Streams, exit_on_error, leave
from memaudit.cli.options import (
    AllowPickle,
    Attacks,
    Base,
    BaselineOption,
    BatchSize,
    Bos,
    ConfigFile,
    Controls,
    DataArgument,
    Device,
    Dtype,
    ExitZero,
    Folds,
    Format,
    GateOn,
    GeneratorOption,
    KeyFile,
    Limit,
    MaxExact,
    MaxFractional,
    MaxLeaked,
    MaxLift,
    MaxNew,
    ModelArgument,
    Offline,
    Out,
    Placement,
    PrefixTokens,
    ProfileName,
    Quantize,
    Quiet,
    Reference,
    Resume,
    Reveal,
    Revision,
    Seed,
    Set,
    ShardOption,
    SkipBadLines,
    Stride,
    SuffixTokens,
    TrustRemoteCode,
    Verbose,
    settings_of,
)
from memaudit.cli.resuming import GivenSettings, scan_or_resume
from memaudit.cli.running import note_versions, resolve_settings
from memaudit.cli.showing import check_format
from memaudit.errors import UsageError


def scan(
    model: ModelArgument = None,
    data: DataArgument = None,
    controls: Controls = None,
    reference: Reference = None,
    out: Out = None,
    resume: Resume = None,
    shard: ShardOption = None,
    profile: ProfileName = None,
    config_file: ConfigFile = None,
    generator: GeneratorOption = None,
    attacks: Attacks = None,
    prefix_tokens: PrefixTokens = None,
    suffix_tokens: SuffixTokens = None,
    placement: Placement = None,
    stride: Stride = None,
    limit: Limit = None,
    skip_bad_lines: SkipBadLines = False,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    bos: Bos = None,
    revision: Revision = None,
    base: Base = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    folds: Folds = None,
    seed: Seed = None,
    batch_size: BatchSize = None,
    max_exact: MaxExact = None,
    max_fractional: MaxFractional = None,
    max_lift: MaxLift = None,
    max_new: MaxNew = None,
    baseline: BaselineOption = None,
    max_leaked: MaxLeaked = None,
    gate_on: GateOn = None,
    key_file: KeyFile = None,
    set_: Set = None,
    output_format: Format = "table",
    reveal: Reveal = False,
    exit_zero: ExitZero = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Audit MODEL on DATA: fit the attacks, extract, report."""
    flags = settings_of(locals())
    with exit_on_error(verbose):
        check_format(output_format)
        settings = GivenSettings(flags, profile, config_file, set_)
        code = scan_or_resume(settings, resume, shard, output_format, Streams(quiet, verbose))
    leave(code, exit_zero=exit_zero)


def inspect(
    model: ModelArgument = None,
    data: DataArgument = None,
    controls: Controls = None,
    reference: Reference = None,
    profile: ProfileName = None,
    config_file: ConfigFile = None,
    attacks: Attacks = None,
    prefix_tokens: PrefixTokens = None,
    suffix_tokens: SuffixTokens = None,
    placement: Placement = None,
    stride: Stride = None,
    limit: Limit = None,
    skip_bad_lines: SkipBadLines = False,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    bos: Bos = None,
    revision: Revision = None,
    base: Base = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    folds: Folds = None,
    seed: Seed = None,
    batch_size: BatchSize = None,
    set_: Set = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Check the inputs and estimate time and memory of a scan. Writes nothing."""
    flags = settings_of(locals())
    with exit_on_error(verbose):
        with_data = "data" in flags or config_file is not None
        if not with_data:
            if controls is not None:
                raise UsageError("--controls without DATA: give the file to audit too")
            flags["data"] = "none given"
        resolved = resolve_settings(flags, profile, config_file, set_)
        from memaudit.scan.inspect import inspect as run_inspection
        from memaudit.scan.inspect_table import render_inspection
        from memaudit.target.failures import quiet_transformers

        streams = Streams(quiet, verbose)
        note_versions(streams)
        with quiet_transformers():
            inspection = run_inspection(resolved.config, with_data=with_data)
        table = render_inspection(inspection, width=streams.width, color=streams.color)
        typer.echo(table, nl=False)
