"""The commands ``diagnose ...``: questions to a finished run, one command each.

Their flags are listed in each, because Typer reads them from signatures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memaudit.cli.border import Streams, border
from memaudit.cli.options import (
    AllowPickle,
    BatchSize,
    Device,
    Offline,
    Quiet,
    TrustRemoteCode,
    Verbose,
)
from memaudit.cli.running import command_line, stoppable
from memaudit.cli.showing import check_diagnosis_format, show_diagnosis
from memaudit.errors import UsageError

if TYPE_CHECKING:
    from memaudit.diagnose.examination import Asked, Method
    from memaudit.diagnosis import DiagnosisName

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

_NOT_SETTINGS = frozenset(("set_", "output_format", "quiet", "verbose"))

diagnose_app = typer.Typer(
    name="diagnose",
    help="Ask a finished run what is hidden, where it sits and what drives it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def _diagnose(
    name: DiagnosisName, method: Method[Asked], kind: type[Asked], given: dict[str, Any]
) -> None:
    """Diagnose a run, put the result into its folder and print it."""
    from memaudit.diagnose.examination import examine
    from memaudit.stored_diagnoses import is_signed, require_unchanged, write_diagnosis
    from memaudit.target.failures import quiet_transformers

    check_diagnosis_format(given["output_format"])
    settings = _settings(kind, given)
    streams = Streams(given["quiet"], given["verbose"])
    require_unchanged(settings.run, name)
    with stoppable(), quiet_transformers():
        found = examine(method, settings, command_line(), streams.progress())
        write_diagnosis(found.run, found.record)
    streams.note(f"Written to {settings.run}; its page and its manifest were made anew")
    if is_signed(settings.run):
        streams.note("The manifest had a signature, which does not fit the new one: sign it again")
    show_diagnosis(found.record, given["output_format"], streams)


def _settings(kind: type[Asked], given: dict[str, Any]) -> Asked:
    """The flags that were used, as settings. Raises UsageError."""
    from pydantic import ValidationError

    from memaudit.layers import explain_fault

    values = {name: value for name, value in given.items() if value is not None}
    values |= dict(_assigned(kind, word) for word in given["set_"] or ())
    for name in _NOT_SETTINGS:
        values.pop(name, None)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(explain_fault(error, dict.fromkeys(values, "flag"))) from None


def _assigned(kind: type[Asked], assignment: str) -> tuple[str, Any]:
    """``name=value``; several values with commas between them where the setting takes several."""
    name, equals, value = (part.strip() for part in assignment.partition("="))
    # The others have flags, which say what they mean and what they lift.
    own = sorted(set(kind.model_fields) - set(kind.__base__.model_fields))  # type: ignore[union-attr]
    if not equals or name not in own:
        raise UsageError(
            f"--set {assignment}: write it as NAME=VALUE; names: {', '.join(own) or 'none'}"
        )
    several = isinstance(kind.model_fields[name].default, tuple)
    return name, [one.strip() for one in value.split(",")] if several else value


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
    """What is remembered and does not come out: scores that find it, and how well."""
    given = locals()
    with border(verbose):
        from memaudit.diagnose.latent.diagnosis import LatentSettings, diagnose_latent

        _diagnose("latent", diagnose_latent, LatentSettings, given)


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
    """Where it sits: what each block costs memory, and what it costs skill."""
    given = locals()
    with border(verbose):
        from memaudit.diagnose.layers.diagnosis import LayersSettings, diagnose_layers

        _diagnose("layers", diagnose_layers, LayersSettings, given)


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
    """Where it sits: probes of hidden states, and units that stop an extraction."""
    given = locals()
    with border(verbose):
        from memaudit.diagnose.neurons.diagnosis import NeuronsSettings, diagnose_neurons

        _diagnose("neurons", diagnose_neurons, NeuronsSettings, given)


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
    """What drives it: prefix, suffix and prompt length, repetitions, model size, samples drawn."""
    given = locals()
    with border(verbose):
        from memaudit.diagnose.sweep.diagnosis import SweepSettings, diagnose_sweep

        _diagnose("sweep", diagnose_sweep, SweepSettings, given)


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
    """What gives it away: entropy at the border, and a predictor for triage."""
    given = locals()
    with border(verbose):
        from memaudit.diagnose.signals.diagnosis import SignalsSettings, diagnose_signals

        _diagnose("signals", diagnose_signals, SignalsSettings, given)


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
    """Where the model looks: concentration of attention, by layer."""
    given = locals()
    with border(verbose):
        from memaudit.diagnose.attention.diagnosis import AttentionSettings, diagnose_attention

        _diagnose("attention", diagnose_attention, AttentionSettings, given)
