"""Extraction against model size: other checkpoints on the same windows, without a prompt.

Knows a finished run and how another model is checked, loaded and let go: one at a time, beside the
audited one. What the audited one says stands in the run.
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
from memaudit.diagnose.sweep.drawing import DrawnSides, drawn_words
from memaudit.diagnose.sweep.figures import (
    Drawn,
    Piece,
    apart_from_zero,
)
from memaudit.diagnose.sweep.passes import Asker, Said
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
class Other:
    """What another model says of the windows that were drawn."""

    name: str
    """Short, of plain characters."""
    parameters: int
    data: Said
    controls: Said | None


def sweep_models(
    subject: Subject,
    models: Sequence[str],
    drawn: DrawnSides,
    asker: Asker | None,
    progress: Progress,
    resamples: Resamples,
) -> tuple[Piece, list[Other]]:
    """Ask each further model about the windows drawn, and hold them beside the audited one.

    asker: None where the batch is to be found from the memory there is. Raises UsageError for a
    model that reads the text otherwise, and what loading one raises.
    """
    configs = [_config(subject, model) for model in models]
    tokenizer = subject.checkpoint.tokenizer
    windows = cut_files(subject.config, tokenizer)
    for model, config in zip(models, configs, strict=True):
        check_tokenizer(f"--with {model}", subject.config, config, tokenizer, windows)
    others = []
    for model, config in zip(models, configs, strict=True):
        name = short_name(model)
        with progress.stage(f"loading {name}", 1):
            checkpoint = load_target(config, tokenizer, windows)
        try:
            size = choose_batch_size(checkpoint, subject.suffix_tokens)[0]
            mine = asker or Asker(subject.config.scores, subject.suffix_tokens, size)
            data = _ask(checkpoint, subject.data, drawn.data, mine, f"asking {name}", progress)
            controls = None
            if subject.controls is not None and drawn.controls is not None:
                stage = f"asking {name}, controls"
                controls = _ask(checkpoint, subject.controls, drawn.controls, mine, stage, progress)
            others.append(Other(name, checkpoint.num_parameters, data, controls))
        finally:
            release(checkpoint)
    return _piece(subject, drawn, others, resamples), others


def _ask(
    checkpoint: Checkpoint, part: Part, drawn: Drawn, asker: Asker, stage: str, progress: Progress
) -> Said:
    ids = part.ids[drawn.rows]
    with progress.stage(stage, len(ids)) as advance:
        return asker.ask(checkpoint, ids, ids.shape[1] - asker.suffix_tokens, advance)


def short_name(model: str) -> str:
    """The last part of a model's name, harmless and in ASCII."""
    name = PurePath(model.rstrip("/\\")).name or "model"
    shown = neutral(name).encode("ascii", "replace").decode("ascii")
    return shorten(shown, _LONGEST_NAME).replace("…", "~")


def _config(subject: Subject, model: str) -> ScanConfig:
    """The run's settings with this model in the audited one's place, and no prompt."""
    audited = subject.config.target.revision
    name, at, revision = model.rpartition("@")
    if not at or Path(model).exists():  # a folder may be named so
        name, revision = model, ""
    if name == subject.config.model and revision in ("", audited):
        raise UsageError(f"--with {model}: is the audited model itself; name others")
    asked = {"reference": name, "attacks": ("none",)}
    config = reference_config(subject.config.model_copy(update=asked))
    target = config.target.model_copy(update={"revision": revision or None})
    return config.model_copy(update={"target": target})


def _piece(subject: Subject, drawn: DrawnSides, others: list[Other], resamples: Resamples) -> Piece:
    some = subject.data.take(drawn.data.rows)
    rows = [_own_row(subject, resamples)]
    rows += [_row(other, some, drawn, resamples) for other in others]
    sizes = [subject.checkpoint.num_parameters, *(other.parameters for other in others)]
    order = np.argsort(sizes, kind="stable")
    table = FigureTable(
        name=_NAME,
        title="Model size",
        says=(
            "Every model on the same windows, without a prompt. Points: less the audited model, "
            "paired. Gained and lost: windows looked at that come out of this model alone, or of "
            "the audited one alone. Of hidden: of the windows looked at that only a prompt gets "
            "out of the audited model. p: the larger of McNemar's and of a sign-flip test over "
            f"clusters, where all windows were looked at. Looked at: "
            f"{drawn_words(drawn.data, 'windows')}."
        ),
        columns=_columns(subject),
        rows=[rows[place] for place in order],
    )
    notes = [
        "Checkpoints may differ in more than size: how long and on what they were trained. The "
        "comparison says what is, not why."
    ]
    plot = _plot(subject, drawn, others, resamples)
    return Piece(_findings(subject, some, drawn.data, others, resamples), notes, [table], [plot])


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


def _row(other: Other, some: Part, drawn: DrawnSides, resamples: Resamples) -> list[Cell]:
    """some: the windows that were drawn."""
    own, its, hidden = some.extracted, other.data.exact, some.hidden
    loss = other.data.nll - some.score("suffix_nll", "none")
    row: list[Cell] = [
        other.name,
        other.parameters,
        drawn.data.rate(its, resamples),
        drawn.data.change(its, own, resamples),
        int((its & ~own).sum()),
        int((own & ~its).sum()),
        drawn.data.p_value(its, own, resamples),
        resamples.rate(its[hidden], some.clusters[hidden]) if hidden.any() else None,
        drawn.data.mean(other.data.nll, resamples),
        drawn.data.mean(loss, resamples),
    ]
    if other.controls is not None and drawn.controls is not None:
        row.append(drawn.controls.rate(other.controls.exact, resamples))
        row.append(drawn.controls.mean(other.controls.nll, resamples))
    return row


def _plot(subject: Subject, drawn: DrawnSides, others: list[Other], resamples: Resamples) -> Plot:
    data = [(subject.checkpoint.num_parameters, short_name(subject.config.model))]
    data += [(other.parameters, other.name) for other in others]
    order = np.argsort([size for size, _ in data], kind="stable")
    by_size = len({size for size, _ in data}) == len(data)
    at = [float(data[place][0]) if by_size else float(row) for row, place in enumerate(order)]
    names = None if by_size else [data[place][1] for place in order]
    lines = []
    own = resamples.rate(subject.data.extracted, subject.data.clusters)
    rates = [own, *(drawn.data.rate(other.data.exact, resamples) for other in others)]
    shown, join = [rates[place] for place in order], "-" if by_size else ""
    lines.append(Line.of("data", "series-1", at, shown, dash=join, marker="o"))
    if subject.controls is not None and drawn.controls is not None:
        its = [other.controls for other in others if other.controls is not None]
        rates = [resamples.rate(subject.controls.extracted, subject.controls.clusters)]
        rates += [drawn.controls.rate(one.exact, resamples) for one in its]
        shown, dash = [rates[place] for place in order], ":" if by_size else ""
        lines.append(Line.of("controls", "series-3", at, shown, dash=dash, marker="o"))
    size_axis = Axis("parameters", logarithmic=True) if by_size else Axis("model", False, at, names)
    return Plot(
        name=_NAME,
        title="Extraction against model size",
        says="Without a prompt, on the same windows, with intervals.",
        x=size_axis,
        y=Axis("share of windows", low=0.0),
        lines=lines,
    )


def _findings(
    subject: Subject, some: Part, drawn: Drawn, others: list[Other], resamples: Resamples
) -> list[str]:
    own = f"{resamples.rate(subject.data.extracted, subject.data.clusters):share}"
    sentences = [f"Model size: of {short_name(subject.config.model)} (audited) {own} come out."]
    for other in others:
        apart = drawn.change(other.data.exact, some.extracted, resamples)
        said = f"{apart:points points}"
        p = drawn.p_value(other.data.exact, some.extracted, resamples)
        if not apart_from_zero(apart, p):
            said += ", which may be nothing"
        elif p is not None:
            said += f", {p_value(p)}"
        sentences.append(
            f"Of {other.name} ({other.parameters:,} parameters) "
            f"{drawn.rate(other.data.exact, resamples):share}: {said}."
        )
        hidden = some.hidden
        if hidden.any():
            known = resamples.rate(other.data.exact[hidden], some.clusters[hidden])
            rest = ~hidden & ~some.extracted
            rest_rate = resamples.rate(other.data.exact[rest], some.clusters[rest])
            sentences.append(
                f"It gives away {known:share} of the windows that only a prompt gets out of "
                f"the audited one, and {rest_rate:share} of those that nothing does."
            )
    return [" ".join(sentences)]
