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
from numpy.typing import NDArray

from memaudit.attack.decoding_check import check_causal
from memaudit.attack.journal import Progress
from memaudit.attack.memory import choose_batch_size
from memaudit.config.settings import ScanConfig, ScoreSettings
from memaudit.data.forms import REPETITIONS
from memaudit.data.plan import cut_files
from memaudit.diagnose.subject import Part, Subject
from memaudit.diagnose.sweep.fits import Fits, check_fits, fit_variants
from memaudit.diagnose.sweep.settings import SweepSettings
from memaudit.diagnose.sweep.windows import (
    Asker,
    PassScores,
    Sampled,
    sample_windows,
)
from memaudit.errors import TargetError, UsageError
from memaudit.pipeline.loading import load_target
from memaudit.pipeline.reference import check_tokenizer, reference_config, release
from memaudit.report.reading import passed_through
from memaudit.score.stats import Floats
from memaudit.system.plain_text import neutral, shorten

DEFAULT_COLUMN = REPETITIONS
"""Default column of repetitions."""
_LONGEST_NAME = 24


@dataclass(frozen=True, eq=False)
class Model:
    """Scores of the sampled windows by a further model."""

    name: str
    """Short ASCII name."""
    parameters: int
    scores: Mapping[str, PassScores]
    """Scores by role."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """Windows of the run by role, ``data`` and ``controls``, and further scores of a sample."""

    parts: Mapping[str, Part]
    """No controls if they are too few to report."""
    had_controls: bool
    ran: tuple[str, ...]
    """Attacks of the run, ``copy`` included."""
    scores: ScoreSettings
    suffix_tokens: int
    """S."""
    sampled: Mapping[str, Sampled]
    """Sampled windows by role."""
    lengths: Sequence[int]
    """Prefix lengths, ascending; the last is that of the longest prefix."""
    shorter: Mapping[int, int]
    """Sampled windows of the data whose prefix has fewer tokens, by p."""
    prefixes: Mapping[str, Mapping[int, PassScores]]
    """Scores of the sampled windows by role and p."""
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
    parts = {"data": subject.data}
    if subject.controls is not None and subject.disclosure.admits(
        "controls", subject.controls.clusters
    ):
        parts["controls"] = subject.controls
    subject = replace(subject, controls=parts.get("controls"))
    # Checked before long work.
    repetitions = repetitions_of(subject.data, settings.by)
    usable = check_fits(subject, settings.virtual_tokens) if settings.fits else None
    rng = np.random.default_rng([settings.seed, 40])
    sampled = {role: sample_windows(part, settings.windows, rng) for role, part in parts.items()}
    ids = {role: part.ids[sampled[role].rows] for role, part in parts.items()}
    further = ask_models(subject, settings, ids, progress)
    lengths, notes = _causal_lengths(
        subject, lengths_up_to(subject.longest_prefix, settings.prefix_lengths)
    )
    prefixes = {
        role: _score_lengths(subject, role, part.take(sampled[role].rows), lengths, progress)
        for role, part in parts.items()
    }
    fits = None
    if usable is not None:
        elsewhere = None
        if further and sampled["data"].is_all:
            elsewhere = np.any([model.scores["data"].exact for model in further], axis=0)
            elsewhere &= ~subject.data.extracted
        fits = fit_variants(subject, settings, usable, elsewhere, progress)
    return Measurements(
        parts=parts,
        had_controls=had_controls,
        ran=subject.run.attacks,
        scores=subject.config.scores,
        suffix_tokens=subject.suffix_tokens,
        sampled=sampled,
        lengths=lengths,
        shorter={p: int((subject.prefix_lengths(ids["data"]) < p).sum()) for p in lengths},
        prefixes=prefixes,
        prefix_notes=notes,
        audited=short_name(subject.config.model),
        parameters=subject.checkpoint.num_parameters,
        further=further,
        repetitions=repetitions,
        fits=fits,
    )


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
    wrong = "has no two different numbers" if name in columns else "is not in the tables of the run"
    label = neutral(shorten(name, 40))
    raise UsageError(f"--by {label}: {wrong}; name a numeric column that --keep-columns kept")


def numeric(cells: Sequence[object]) -> Floats:
    """Return the cells as numbers (N,); NaN for cells that hold no number."""
    return np.array([_number(cell) for cell in cells], dtype=np.float64)


def _number(cell: object) -> float:
    try:
        value = float(str(cell))
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def lengths_up_to(longest: int, wanted: Sequence[int]) -> list[int]:
    """Return the wanted lengths below that of the longest prefix, ascending, and that one."""
    return [*sorted({p for p in wanted if p < longest}), longest]


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
    some: Part,
    lengths: Sequence[int],
    progress: Progress,
) -> dict[int, PassScores]:
    """Score the sampled windows by p prefix tokens; the whole prefix has the run's scores.

    So has a prefix of at most p tokens, which is whole.
    """
    matched = some.score("matched", "none").astype(np.int64)
    whole = PassScores(matched, some.score("suffix_nll", "none"), subject.suffix_tokens)
    scores = {lengths[-1]: whole}
    asker = Asker(subject.config.scores, subject.suffix_tokens, subject.batch_size)
    longer = {p: np.flatnonzero(subject.prefix_lengths(some.ids) > p) for p in lengths[:-1]}
    with progress.stage(f"prefix lengths, {role}", sum(map(len, longer.values()))) as advance:
        for prefix, rows in longer.items():
            scores[prefix] = whole
            if len(rows):
                cut = asker.ask(subject.checkpoint, some.ids[rows], prefix, advance)
                scores[prefix] = whole.replaced(rows, cut)
    return scores


def ask_models(
    subject: Subject,
    settings: SweepSettings,
    ids: Mapping[str, NDArray[np.int32]],
    progress: Progress,
) -> list[Model]:
    """Score windows (n,P+S), by role, with each further model.

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
            size = settings.batch_size or choose_batch_size(checkpoint, subject.suffix_tokens)[0]
            asker = Asker(subject.config.scores, subject.suffix_tokens, size)
            scores = {}
            for role, rows in ids.items():
                stage = f"asking {name}" if role == "data" else f"asking {name}, {role}"
                with progress.stage(stage, len(rows)) as advance:
                    scores[role] = asker.ask(checkpoint, rows, subject.prefix_tokens, advance)
            further.append(Model(name, checkpoint.num_parameters, scores))
        finally:
            release(checkpoint)
    return further


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
