"""The commands ``diagnose ...``, one for each diagnosis of a finished run.

Their flags are listed in each, because Typer reads them from signatures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memaudit.cli.errors import exit_on_error
from memaudit.cli.examining import examine_run
from memaudit.cli.options import (
    AllowPickle,
    BatchSize,
    Device,
    Offline,
    Quiet,
    RevealFigures,
    Seed,
    TableOrJson,
    TrustRemoteCode,
    Verbose,
)

Run = Annotated[Path, typer.Argument(help="Run folder of a finished scan.", metavar="RUN")]
Model = Annotated[
    str | None, typer.Option(help="Location of the model, if it has moved since the scan.")
]
Data = Annotated[Path | None, typer.Option(help="Location of the data, if they have moved.")]
Controls = Annotated[
    Path | None, typer.Option(help="Location of the controls, if they have moved.")
]
MaxWindows = Annotated[
    int | None, typer.Option("--windows", help="Look at up to this many windows of each group.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Any other setting (an unknown name lists all)."
    ),
]

diagnose_app = typer.Typer(
    name="diagnose",
    help="Examine a finished run: what is hidden, where it sits and what drives it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@diagnose_app.command()
def latent(
    run: Run,
    model: Model = None,
    data: Data = None,
    controls: Controls = None,
    known: Annotated[
        Path | None,
        typer.Option(help="Run of the same windows on an earlier checkpoint."),
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Model to compare NLLs with.")] = None,
    windows: MaxWindows = None,
    set_: Set = None,
    seed: Seed = None,
    reveal: RevealFigures = False,
    device: Device = None,
    batch_size: BatchSize = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    output_format: TableOrJson = "table",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find windows the model remembers but does not extract.

    Scores the windows that the plain prefix does not extract, perturbs the weights slightly, and
    measures how well each method finds what a stronger attack, or the run of --known, extracts.
    """
    flags = locals()
    with exit_on_error(verbose):
        from memaudit.diagnose.latent.diagnosis import LatentSettings, diagnose_latent

        examine_run("latent", diagnose_latent, LatentSettings, flags)


@diagnose_app.command()
def layers(
    run: Run,
    model: Model = None,
    data: Data = None,
    controls: Controls = None,
    windows: MaxWindows = None,
    set_: Set = None,
    seed: Seed = None,
    reveal: RevealFigures = False,
    device: Device = None,
    batch_size: BatchSize = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    output_format: TableOrJson = "table",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find the blocks that carry memory rather than skill.

    Removes the attention and the feed-forward part of each block in turn, and measures what is
    still extracted and what the removal costs on text that the model has not seen.
    """
    flags = locals()
    with exit_on_error(verbose):
        from memaudit.diagnose.layers.diagnosis import LayersSettings, diagnose_layers

        examine_run("layers", diagnose_layers, LayersSettings, flags)


@diagnose_app.command()
def neurons(
    run: Run,
    model: Model = None,
    data: Data = None,
    controls: Controls = None,
    windows: MaxWindows = None,
    set_: Set = None,
    seed: Seed = None,
    reveal: RevealFigures = False,
    device: Device = None,
    batch_size: BatchSize = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    output_format: TableOrJson = "table",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find hidden states and feed-forward units that memory depends on.

    Probes hidden states block by block, and searches the smallest sets of feed-forward units
    whose silencing stops an extraction, with the cost elsewhere.
    """
    flags = locals()
    with exit_on_error(verbose):
        from memaudit.diagnose.neurons.diagnosis import NeuronsSettings, diagnose_neurons

        examine_run("neurons", diagnose_neurons, NeuronsSettings, flags)


@diagnose_app.command()
def sweep(
    run: Run,
    model: Model = None,
    data: Data = None,
    controls: Controls = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--with", metavar="MODEL", help="Another model size or training stage; repeatable."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Column that counts repetitions (default: dup, if there is one)."),
    ] = None,
    fits: Annotated[
        bool, typer.Option("--fits", help="Also fit prompts: length, start, depth, kind.")
    ] = False,
    windows: MaxWindows = None,
    set_: Set = None,
    seed: Seed = None,
    reveal: RevealFigures = False,
    device: Device = None,
    batch_size: BatchSize = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    output_format: TableOrJson = "table",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure what raises and lowers extraction.

    Varies the length of prefix and suffix, repetitions, model size and number of samples; with
    --fits also the length, kind, start and depth of soft prompts.
    """
    flags = locals()
    with exit_on_error(verbose):
        from memaudit.diagnose.sweep.diagnosis import SweepSettings, diagnose_sweep

        examine_run("sweep", diagnose_sweep, SweepSettings, flags)


@diagnose_app.command()
def signals(
    run: Run,
    model: Model = None,
    data: Data = None,
    controls: Controls = None,
    windows: MaxWindows = None,
    set_: Set = None,
    seed: Seed = None,
    reveal: RevealFigures = False,
    device: Device = None,
    batch_size: BatchSize = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    output_format: TableOrJson = "table",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find signals that reveal or predict extraction.

    Measures entropy and other signals around the border of prefix and suffix, and fits a
    predictor on the prefix alone that says which part of a corpus to scan first.
    """
    flags = locals()
    with exit_on_error(verbose):
        from memaudit.diagnose.signals.diagnosis import SignalsSettings, diagnose_signals

        examine_run("signals", diagnose_signals, SignalsSettings, flags)


@diagnose_app.command()
def attention(
    run: Run,
    model: Model = None,
    data: Data = None,
    controls: Controls = None,
    windows: MaxWindows = None,
    set_: Set = None,
    seed: Seed = None,
    reveal: RevealFigures = False,
    device: Device = None,
    batch_size: BatchSize = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    output_format: TableOrJson = "table",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare attention between extracted and other windows.

    Measures entropy and largest weights of attention in each block.
    """
    flags = locals()
    with exit_on_error(verbose):
        from memaudit.diagnose.attention.diagnosis import AttentionSettings, diagnose_attention

        examine_run("attention", diagnose_attention, AttentionSettings, flags)
