"""The commands ``diagnose ...``: questions to a finished run, one command each.

Their flags are listed in each, because Typer reads them from signatures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memaudit.cli.errors import border
from memaudit.cli.examining import examine_run
from memaudit.cli.options import (
    AllowPickle,
    BatchSize,
    Device,
    Offline,
    Quiet,
    TrustRemoteCode,
    Verbose,
)

Run = Annotated[Path, typer.Argument(help="Run folder of a finished scan.", metavar="RUN")]
Model = Annotated[
    str | None, typer.Option(help="Where the model lies now, if not where it was audited.")
]
Data = Annotated[Path | None, typer.Option(help="Where the data lie now, likewise.")]
Controls = Annotated[Path | None, typer.Option(help="Where the controls lie now, likewise.")]
Most = Annotated[
    int | None, typer.Option("--windows", help="Windows of each group that are looked at, at most.")
]
Other = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Another setting; a wrong name lists them."),
]
Seed = Annotated[int | None, typer.Option(help="Of everything that is drawn.")]
Format = Annotated[str, typer.Option("--format", help="On stdout: table or json.")]

diagnose_app = typer.Typer(
    name="diagnose",
    help="Ask a finished run what is hidden, where it sits and what drives it.",
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
        typer.Option(help="Run of the same windows on an earlier checkpoint: what was in it."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Model before training: NLLs are set beside its.")
    ] = None,
    windows: Most = None,
    set_: Other = None,
    seed: Seed = None,
    device: Device = None,
    batch_size: BatchSize = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    output_format: Format = "table",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """What is remembered and does not come out.

    Scores of what the plain prefix leaves over, small perturbations of the weights, and how well
    each of them finds what a stronger attack, or the run of --known, brings out.
    """
    given = locals()
    with border(verbose):
        from memaudit.diagnose.latent.diagnosis import LatentSettings, diagnose_latent

        examine_run("latent", diagnose_latent, LatentSettings, given)


@diagnose_app.command()
def layers(
    run: Run,
    model: Model = None,
    data: Data = None,
    controls: Controls = None,
    windows: Most = None,
    set_: Other = None,
    seed: Seed = None,
    device: Device = None,
    batch_size: BatchSize = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    output_format: Format = "table",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Which blocks carry memory, and which carry skill.

    Each block without its attention, and without its feed-forward part: what still comes out,
    and what that costs on text which the model has not seen.
    """
    given = locals()
    with border(verbose):
        from memaudit.diagnose.layers.diagnosis import LayersSettings, diagnose_layers

        examine_run("layers", diagnose_layers, LayersSettings, given)


@diagnose_app.command()
def neurons(
    run: Run,
    model: Model = None,
    data: Data = None,
    controls: Controls = None,
    windows: Most = None,
    set_: Other = None,
    seed: Seed = None,
    device: Device = None,
    batch_size: BatchSize = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    output_format: Format = "table",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Which states tell memory, and which units it takes.

    Probes of hidden states, block by block, and the smallest sets of feed-forward units whose
    silencing stops an extraction, with what that costs elsewhere.
    """
    given = locals()
    with border(verbose):
        from memaudit.diagnose.neurons.diagnosis import NeuronsSettings, diagnose_neurons

        examine_run("neurons", diagnose_neurons, NeuronsSettings, given)


@diagnose_app.command()
def sweep(
    run: Run,
    model: Model = None,
    data: Data = None,
    controls: Controls = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="MODEL", help="Another size or stage; may be repeated."),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="Column of the data that counts repetitions; dup, if any.")
    ] = None,
    fits: Annotated[
        bool, typer.Option("--fits", help="Fit prompts too: length, start, depth, kind.")
    ] = False,
    windows: Most = None,
    set_: Other = None,
    seed: Seed = None,
    device: Device = None,
    batch_size: BatchSize = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    output_format: Format = "table",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """What makes more of it come out, and what less.

    Length of prefix and suffix, repetitions, model size, samples drawn; with --fits also the
    length, kind, start and depth of soft prompts.
    """
    given = locals()
    with border(verbose):
        from memaudit.diagnose.sweep.diagnosis import SweepSettings, diagnose_sweep

        examine_run("sweep", diagnose_sweep, SweepSettings, given)


@diagnose_app.command()
def signals(
    run: Run,
    model: Model = None,
    data: Data = None,
    controls: Controls = None,
    windows: Most = None,
    set_: Other = None,
    seed: Seed = None,
    device: Device = None,
    batch_size: BatchSize = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    output_format: Format = "table",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """What gives it away, and what foretells it.

    Entropy and other signals around the border of prefix and suffix, and a predictor from the
    prefix alone that says which part of a corpus to scan first.
    """
    given = locals()
    with border(verbose):
        from memaudit.diagnose.signals.diagnosis import SignalsSettings, diagnose_signals

        examine_run("signals", diagnose_signals, SignalsSettings, given)


@diagnose_app.command()
def attention(
    run: Run,
    model: Model = None,
    data: Data = None,
    controls: Controls = None,
    windows: Most = None,
    set_: Other = None,
    seed: Seed = None,
    device: Device = None,
    batch_size: BatchSize = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    offline: Offline = False,
    output_format: Format = "table",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """How concentrated attention is where text comes out.

    Entropy and largest weights of attention in each block, for extracted and other windows.
    """
    given = locals()
    with border(verbose):
        from memaudit.diagnose.attention.diagnosis import AttentionSettings, diagnose_attention

        examine_run("attention", diagnose_attention, AttentionSettings, given)
