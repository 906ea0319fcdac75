"""Extraction against model size: further checkpoints on the same windows, without a prompt.

Knows a finished run, and how a further model is checked, loaded and released: one at a time, beside
the audited model. The audited model's scores come from the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.attack.memory import choose_batch_size
from memaudit.config.settings import ScanConfig
from memaudit.data.plan import cut_files
from memaudit.diagnose.subject import Part, Subject
from memaudit.diagnose.sweep.figures import Piece, Sampled, differs_from_zero
from memaudit.diagnose.sweep.passes import Asker, PassScores, SampledSides, describe_sample
from memaudit.errors import UsageError
from memaudit.pipeline.loading import load_target
from memaudit.pipeline.reference import check_tokenizer, reference_config, release
from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Cell, Column, FigureTable, Plot
from memaudit.report.wording import neutral, p_value, shorten
from memaudit.score.resample import Resamples
from memaudit.target.checkpoint import Checkpoint

_NAME = "model-size"
_LONGEST_NAME = 24


@dataclass(frozen=True, eq=False)
class FurtherModel:
    """Scores of the sampled windows by a further model."""

    name: str
    """Short ASCII name."""
    parameters: int
    data: PassScores
    controls: PassScores | None


def sweep_models(
    subject: Subject,
    models: Sequence[str],
    sampled: SampledSides,
    asker: Asker | None,
    progress: Progress,
    resamples: Resamples,
) -> tuple[Piece, list[FurtherModel]]:
    """Score the sampled windows with each further model, and compare it with the audited model.

    asker: None to choose the batch size from the free memory. Raises UsageError for a model that
    tokenizes the text differently, and the errors of loading a model.
    """
    configs = [_config(subject, model) for model in models]
    tokenizer = subject.checkpoint.tokenizer
    windows = cut_files(subject.config, tokenizer)
    for model, config in zip(models, configs, strict=True):
        check_tokenizer(f"--with {model}", subject.config, config, tokenizer, windows)
    further = []
    for model, config in zip(models, configs, strict=True):
        name = short_name(model)
        with progress.stage(f"loading {name}", 1):
            checkpoint = load_target(config, tokenizer, windows)
        try:
            size = choose_batch_size(checkpoint, subject.suffix_tokens)[0]
            model_asker = asker or Asker(subject.config.scores, subject.suffix_tokens, size)
            data = _ask(
                checkpoint, subject.data, sampled.data, model_asker, f"asking {name}", progress
            )
            controls = None
            if subject.controls is not None and sampled.controls is not None:
                stage = f"asking {name}, controls"
                controls = _ask(
                    checkpoint, subject.controls, sampled.controls, model_asker, stage, progress
                )
            further.append(FurtherModel(name, checkpoint.num_parameters, data, controls))
        finally:
            release(checkpoint)
    return _piece(subject, sampled, further, resamples), further


def _ask(
    checkpoint: Checkpoint,
    part: Part,
    sampled: Sampled,
    asker: Asker,
    stage: str,
    progress: Progress,
) -> PassScores:
    ids = part.ids[sampled.rows]
    with progress.stage(stage, len(ids)) as advance:
        return asker.ask(checkpoint, ids, ids.shape[1] - asker.suffix_tokens, advance)


def short_name(model: str) -> str:
    """Return the last part of a model's name, in printable ASCII."""
    name = PurePath(model.rstrip("/\\")).name or "model"
    ascii_name = neutral(name).encode("ascii", "replace").decode("ascii")
    return shorten(ascii_name, _LONGEST_NAME).replace("…", "~")


def _config(subject: Subject, model: str) -> ScanConfig:
    """Return the run's settings with this model as the target, and no prompt."""
    audited = subject.config.target.revision
    name, at, revision = model.rpartition("@")
    if not at or Path(model).exists():  # a folder's name may hold an @
        name, revision = model, ""
    if name == subject.config.model and revision in ("", audited):
        raise UsageError(f"--with {model}: is the audited model; name another model")
    asked = {"reference": name, "attacks": ("none",)}
    config = reference_config(subject.config.model_copy(update=asked))
    target = config.target.model_copy(update={"revision": revision or None})
    return config.model_copy(update={"target": target})


def _piece(
    subject: Subject, sampled: SampledSides, further: list[FurtherModel], resamples: Resamples
) -> Piece:
    sample = subject.data.take(sampled.data.rows)
    rows = [_own_row(subject, resamples)]
    rows += [_row(model, sample, sampled, resamples) for model in further]
    sizes = [subject.checkpoint.num_parameters, *(model.parameters for model in further)]
    order = np.argsort(sizes, kind="stable")
    table = FigureTable(
        name=_NAME,
        title="Model size",
        says=(
            "Every model on the same windows, without a prompt. Points: paired difference from the "
            "audited model. Gained and lost: sampled windows that only this model, or only the "
            "audited model, extracts. Of hidden: share of the sampled windows that only a prompt "
            "extracts from the audited model. p: the larger of McNemar's test and a sign-flip test "
            f"over clusters, if all windows were sampled. Sample: "
            f"{describe_sample(sampled.data, 'windows')}."
        ),
        columns=_columns(subject),
        rows=[rows[place] for place in order],
    )
    notes = [
        "Checkpoints may differ in more than size, such as training data and training length. The "
        "comparison shows a difference, not its cause."
    ]
    plot = _plot(subject, sampled, further, resamples)
    return Piece(
        _findings(subject, sample, sampled.data, further, resamples), notes, [table], [plot]
    )


def _columns(subject: Subject) -> list[Column]:
    columns = [
        Column("model", "text"),
        Column("parameters", "count"),
        Column("extracted", "share"),
        Column("less audited", "points"),
        Column("gained", "count"),
        Column("lost", "count"),
        Column("p", "p"),
        Column("of hidden", "share"),
        Column("suffix NLL", "nats"),
        Column("NLL less audited", "nats"),
    ]
    if subject.controls is not None:
        columns += [Column("controls", "share"), Column("controls, NLL", "nats")]
    return columns


def _own_row(subject: Subject, resamples: Resamples) -> list[Cell]:
    data, controls = subject.data, subject.controls
    row: list[Cell] = [
        f"{short_name(subject.config.model)} (audited)",
        subject.checkpoint.num_parameters,
        resamples.rate(data.extracted, data.clusters),
        *(None, None, None, None, None),
        resamples.mean(data.score("suffix_nll", "none"), data.clusters),
        None,
    ]
    if controls is not None:
        row.append(resamples.rate(controls.extracted, controls.clusters))
        row.append(resamples.mean(controls.score("suffix_nll", "none"), controls.clusters))
    return row


def _row(
    other: FurtherModel, sample: Part, sampled: SampledSides, resamples: Resamples
) -> list[Cell]:
    """Return a further model's row; ``sample`` holds the sampled windows."""
    own, exact, hidden = sample.extracted, other.data.exact, sample.hidden
    loss = other.data.nll - sample.score("suffix_nll", "none")
    row: list[Cell] = [
        other.name,
        other.parameters,
        sampled.data.rate(exact, resamples),
        sampled.data.change(exact, own, resamples),
        int((exact & ~own).sum()),
        int((own & ~exact).sum()),
        sampled.data.p_value(exact, own, resamples),
        resamples.rate(exact[hidden], sample.clusters[hidden]) if hidden.any() else None,
        sampled.data.mean(other.data.nll, resamples),
        sampled.data.mean(loss, resamples),
    ]
    if other.controls is not None and sampled.controls is not None:
        row.append(sampled.controls.rate(other.controls.exact, resamples))
        row.append(sampled.controls.mean(other.controls.nll, resamples))
    return row


def _plot(
    subject: Subject, sampled: SampledSides, further: list[FurtherModel], resamples: Resamples
) -> Plot:
    data = [(subject.checkpoint.num_parameters, short_name(subject.config.model))]
    data += [(model.parameters, model.name) for model in further]
    order = np.argsort([size for size, _ in data], kind="stable")
    by_size = len({size for size, _ in data}) == len(data)
    at = [float(data[place][0]) if by_size else float(row) for row, place in enumerate(order)]
    names = None if by_size else [data[place][1] for place in order]
    lines = []
    own = resamples.rate(subject.data.extracted, subject.data.clusters)
    rates = [own, *(sampled.data.rate(model.data.exact, resamples) for model in further)]
    ordered, join = [rates[place] for place in order], "-" if by_size else ""
    lines.append(Line.of("data", "series-1", at, ordered, dash=join, marker="o"))
    if subject.controls is not None and sampled.controls is not None:
        control_scores = [model.controls for model in further if model.controls is not None]
        rates = [resamples.rate(subject.controls.extracted, subject.controls.clusters)]
        rates += [sampled.controls.rate(scores.exact, resamples) for scores in control_scores]
        ordered, dash = [rates[place] for place in order], ":" if by_size else ""
        lines.append(Line.of("controls", "series-3", at, ordered, dash=dash, marker="o"))
    size_axis = Axis("parameters", logarithmic=True) if by_size else Axis("model", False, at, names)
    return Plot(
        name=_NAME,
        title="Extraction against model size",
        says="Without a prompt, on the same windows.",
        x=size_axis,
        y=Axis("share of windows", low=0.0),
        lines=lines,
    )


def _findings(
    subject: Subject,
    sample: Part,
    sampled: Sampled,
    further: list[FurtherModel],
    resamples: Resamples,
) -> list[str]:
    own = f"{resamples.rate(subject.data.extracted, subject.data.clusters):share}"
    sentences = [f"Model size: {short_name(subject.config.model)} (audited): {own} extracted."]
    for other in further:
        change = sampled.change(other.data.exact, sample.extracted, resamples)
        verdict = f"{change:points points}"
        p = sampled.p_value(other.data.exact, sample.extracted, resamples)
        if not differs_from_zero(change, p):
            verdict += ", which may be chance"
        elif p is not None:
            verdict += f", {p_value(p)}"
        sentences.append(
            f"{other.name} ({other.parameters:,} parameters): "
            f"{sampled.rate(other.data.exact, resamples):share} extracted, {verdict}."
        )
        hidden = sample.hidden
        if hidden.any():
            known = resamples.rate(other.data.exact[hidden], sample.clusters[hidden])
            rest = ~hidden & ~sample.extracted
            rest_rate = resamples.rate(other.data.exact[rest], sample.clusters[rest])
            sentences.append(
                f"It gives away {known:share} of the windows that only a prompt extracts from the "
                f"audited model, and {rest_rate:share} of the windows that no attack extracts."
            )
    return [" ".join(sentences)]
