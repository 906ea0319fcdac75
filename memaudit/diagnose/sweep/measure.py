"""Scores of windows by shorter prefixes, by further models, and by fitted prompts.

Knows a finished run, and how a further model is checked, loaded and released: one at a time, beside
the audited model. The audited model's scores of whole windows come from the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.attack.decoding_check import check_causal
from memaudit.attack.memory import choose_batch_size
from memaudit.config.settings import ScanConfig, ScoreSettings
from memaudit.data.plan import cut_files
from memaudit.diagnose.subject import Part, Subject
from memaudit.diagnose.sweep.fits import Fits, check_fits, fit_variants
from memaudit.diagnose.sweep.settings import SweepSettings
from memaudit.diagnose.sweep.windows import (
    Asker,
    PassScores,
    Sampled,
    SampledSides,
    sample_windows,
)
from memaudit.errors import TargetError, UsageError
from memaudit.pipeline.loading import load_target
from memaudit.pipeline.reference import check_tokenizer, reference_config, release
from memaudit.report.reading import passed_through
from memaudit.report.wording import neutral, shorten
from memaudit.score.stats import Floats
from memaudit.target.checkpoint import Checkpoint

DEFAULT_COLUMN = "dup"
"""Default column of repetitions."""
_LONGEST_NAME = 24


@dataclass(frozen=True, eq=False)
class Model:
    """Scores of the sampled windows by a further model."""

    name: str
    """Short ASCII name."""
    parameters: int
    data: PassScores
    controls: PassScores | None


@dataclass(frozen=True, eq=False)
class Measurements:
    """Windows of the run, and further scores of a sample of them."""

    data: Part
    controls: Part | None
    """None without controls, or if they are too few to report."""
    had_controls: bool
    ran: tuple[str, ...]
    """Attacks of the run, ``copy`` included."""
    scores: ScoreSettings
    prefix_tokens: int
    """P."""
    suffix_tokens: int
    """S."""
    sampled: SampledSides
    lengths: Sequence[int]
    """Prefix lengths, ascending; the last is P."""
    prefixes: Mapping[str, Mapping[int, PassScores]]
    """Scores of the sampled windows by p, for ``data`` and, if any, ``controls``."""
    prefix_notes: Sequence[str]
    """A sentence for each length that was left out."""
    audited: str
    """Short name of the audited model."""
    parameters: int
    further: Sequence[Model]
    repetitions: Floats | None
    """(N,) numbers of a column of the data, NaN for other cells; None without such a column."""
    fits: Fits | None
    """None if no prompt was to be fitted."""


def measure(subject: Subject, settings: SweepSettings, progress: Progress) -> Measurements | None:
    """Ask the model, further models and fitted prompts about a sample of the windows.

    None if there are too few windows to report. Raises UsageError for a column or a model that does
    not fit, and the errors of models and fits.
    """
    if not subject.disclosure.admits("windows of the data", subject.data.clusters):
        return None
    had_controls = subject.controls is not None
    subject = _without_few_controls(subject)
    # Checked before long work.
    repetitions = repetitions_of(subject.data, settings.by)
    usable = check_fits(subject, settings.virtual_tokens) if settings.fits else None
    rng = np.random.default_rng([settings.seed, 40])
    parts = _parts(subject)
    drawn = [sample_windows(part, settings.windows, rng) for part in parts.values()]
    sampled = SampledSides(drawn[0], drawn[1] if len(drawn) > 1 else None)
    further = ask_models(subject, settings, sampled, progress)
    lengths, notes = _causal_lengths(
        subject, lengths_up_to(subject.prefix_tokens, settings.prefix_lengths)
    )
    prefixes = {
        role: _score_lengths(subject, role, part, side, lengths, progress)
        for (role, part), side in zip(parts.items(), drawn, strict=True)
    }
    fits = None
    if usable is not None:
        elsewhere = None
        if further and sampled.data.is_all:
            elsewhere = np.any([model.data.exact for model in further], axis=0)
            elsewhere &= ~subject.data.extracted
        fits = fit_variants(subject, settings, usable, elsewhere, progress)
    return Measurements(
        data=subject.data,
        controls=subject.controls,
        had_controls=had_controls,
        ran=subject.run.attacks,
        scores=subject.config.scores,
        prefix_tokens=subject.prefix_tokens,
        suffix_tokens=subject.suffix_tokens,
        sampled=sampled,
        lengths=lengths,
        prefixes=prefixes,
        prefix_notes=notes,
        audited=short_name(subject.config.model),
        parameters=subject.checkpoint.num_parameters,
        further=further,
        repetitions=repetitions,
        fits=fits,
    )


def _without_few_controls(subject: Subject) -> Subject:
    """Return the subject without controls if they are too few to report."""
    controls = subject.controls
    if controls is None or subject.disclosure.admits("controls", controls.clusters):
        return subject
    return replace(subject, controls=None)


def _parts(subject: Subject) -> dict[str, Part]:
    controls = {} if subject.controls is None else {"controls": subject.controls}
    return {"data": subject.data, **controls}


def repetitions_of(data: Part, by: str | None) -> Floats | None:
    """Return the numbers (N,) of a column, NaN for other cells; None without a default column.

    Raises UsageError if ``by`` names no column of the data, or one without two numbers.
    """
    name = by or DEFAULT_COLUMN
    columns = passed_through(data.rows)
    values = numeric(data.rows[name].tolist()) if name in columns else np.full(len(data), np.nan)
    if len(np.unique(values[np.isfinite(values)])) >= 2:
        return values
    if by is None:
        return None
    wrong = "has no two different numbers" if name in columns else "is not a column of the data"
    label = neutral(shorten(name, 40))
    raise UsageError(f"--by {label}: {wrong}; name a numeric column of the data")


def numeric(cells: Sequence[object]) -> Floats:
    """Return the cells as numbers (N,); NaN for cells that hold no number."""
    return np.array([_number(cell) for cell in cells], dtype=np.float64)


def _number(cell: object) -> float:
    try:
        value = float(str(cell))
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def lengths_up_to(prefix_tokens: int, wanted: Sequence[int]) -> list[int]:
    """Return the wanted lengths below P, ascending, and P."""
    return [*sorted({p for p in wanted if p < prefix_tokens}), prefix_tokens]


def _causal_lengths(subject: Subject, lengths: Sequence[int]) -> tuple[list[int], list[str]]:
    """Return the lengths at which one pass equals decoding, and a note for each other length."""
    checkpoint, good, notes = subject.checkpoint, [], []
    for prefix in lengths[:-1]:
        try:
            before = prefix + (checkpoint.bos_id is not None)
            check_causal(checkpoint, before, subject.suffix_tokens)
        except TargetError as error:
            notes.append(f"Prefix length {prefix} was left out: {error}.")
        else:
            good.append(prefix)
    return [*good, lengths[-1]], notes


def _score_lengths(
    subject: Subject,
    role: str,
    part: Part,
    sampled: Sampled,
    lengths: Sequence[int],
    progress: Progress,
) -> dict[int, PassScores]:
    """Score the sampled windows by p prefix tokens; the whole prefix has the run's scores."""
    some = part.take(sampled.rows)
    matched = some.score("matched", "none").astype(np.int64)
    whole = PassScores(matched, some.score("suffix_nll", "none"), subject.suffix_tokens)
    scores = {lengths[-1]: whole}
    asker = Asker(subject.config.scores, subject.suffix_tokens, subject.batch_size)
    with progress.stage(f"prefix lengths, {role}", len(some) * (len(lengths) - 1)) as advance:
        for prefix in lengths[:-1]:
            scores[prefix] = asker.ask(subject.checkpoint, some.ids, prefix, advance)
    return scores


def ask_models(
    subject: Subject, settings: SweepSettings, sampled: SampledSides, progress: Progress
) -> list[Model]:
    """Score the sampled windows with each further model.

    Raises UsageError for a model that tokenizes the text differently, and the errors of loading a
    model.
    """
    if not settings.models:
        return []
    configs = [_config(subject, model) for model in settings.models]
    tokenizer = subject.checkpoint.tokenizer
    windows = cut_files(subject.config, tokenizer)
    for model, config in zip(settings.models, configs, strict=True):
        check_tokenizer(f"--with {model}", subject.config, config, tokenizer, windows)
    further = []
    for model, config in zip(settings.models, configs, strict=True):
        name = short_name(model)
        with progress.stage(f"loading {name}", 1):
            checkpoint = load_target(config, tokenizer, windows)
        try:
            further.append(
                _ask_model(subject, name, checkpoint, settings.batch_size, sampled, progress)
            )
        finally:
            release(checkpoint)
    return further


def _ask_model(
    subject: Subject,
    name: str,
    checkpoint: Checkpoint,
    batch_size: int | None,
    sampled: SampledSides,
    progress: Progress,
) -> Model:
    size = batch_size or choose_batch_size(checkpoint, subject.suffix_tokens)[0]
    asker = Asker(subject.config.scores, subject.suffix_tokens, size)
    scores = []
    stages = (f"asking {name}", f"asking {name}, controls")
    sides = zip(_parts(subject).values(), (sampled.data, sampled.controls), strict=False)
    for stage, (part, side) in zip(stages, sides, strict=False):
        if side is not None:
            with progress.stage(stage, len(side.rows)) as advance:
                ids = part.ids[side.rows]
                scores.append(asker.ask(checkpoint, ids, subject.prefix_tokens, advance))
    return Model(name, checkpoint.num_parameters, scores[0], scores[1] if len(scores) > 1 else None)


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
