"""``diagnose sweep``: extraction against prefix, suffix, samples, repetitions, model and prompt.

Knows the settings and the order of the pieces. Each piece has a module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.diagnose.disclosure import ALL_WITHHELD
from memaudit.diagnose.subject import Subject
from memaudit.diagnose.sweep.figures import Piece, Sampled
from memaudit.diagnose.sweep.fits import check_fits
from memaudit.diagnose.sweep.fitting import Limits, sweep_fits
from memaudit.diagnose.sweep.models import FurtherModel, sweep_models
from memaudit.diagnose.sweep.passes import Asker, SampledSides, sample_windows
from memaudit.diagnose.sweep.prefixes import sweep_prefixes
from memaudit.diagnose.sweep.repetitions import sweep_repetitions
from memaudit.diagnose.sweep.sampling import sweep_sampling
from memaudit.diagnose.sweep.settings import SweepSettings
from memaudit.diagnose.sweep.suffixes import sweep_suffixes
from memaudit.report.diagnosis import Diagnosis
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools

_ABOUT = (
    "Extraction against prefix tokens, number of samples (Hayes et al. 2024), suffix tokens, "
    "repetitions in training, model size and, with fits, the soft prompt's length, start and depth "
    "(Wang et al. 2024). The run serves every suffix length; each prefix length and each further "
    "model takes one more pass."
)


def diagnose_sweep(subject: Subject, settings: SweepSettings, progress: Progress) -> Diagnosis:
    """Measure extraction against each factor. Raises UsageError for a column or a model that does
    not fit, and the errors of models and fits.
    """
    resamples = subject.resamples(settings.seed)
    if not subject.disclosure.admits("windows of the data", subject.data.clusters):
        return Diagnosis("sweep", _ABOUT, [ALL_WITHHELD], [], [], [], _words(settings))
    has_controls = subject.controls is not None
    subject = _without_few_controls(subject)
    data, controls = subject.data, subject.controls
    ran, asked = subject.run.attacks, data.attacks
    repetitions = sweep_repetitions(
        data, controls, settings.by, asked, resamples
    )  # first, because it may raise
    # Checked before long work.
    usable = check_fits(subject, settings.virtual_tokens) if settings.fits else None
    sampled = _sample(subject, settings)
    models, further = _models(subject, settings, sampled, progress, resamples)
    asker = Asker(subject.config.scores, subject.suffix_tokens, subject.batch_size)
    pieces = [
        models,
        sweep_sampling(data, controls, asked, subject.config.scores, resamples),
        sweep_prefixes(subject, settings.prefix_lengths, sampled, asker, progress, resamples),
        sweep_suffixes(data, controls, subject.suffix_tokens, ran, resamples),
        repetitions,
    ]
    if usable is not None:
        limits = Limits(settings.fit_windows, settings.seeds, settings.seed)
        known_elsewhere = _elsewhere(subject, sampled.data, further)
        pieces.insert(0, sweep_fits(subject, usable, limits, known_elsewhere, progress, resamples))
    return _diagnosis(settings, pieces, has_controls=has_controls)


def _without_few_controls(subject: Subject) -> Subject:
    """Return the subject without controls if they are too few to report."""
    controls = subject.controls
    if controls is None or subject.disclosure.admits("controls", controls.clusters):
        return subject
    return replace(subject, controls=None)


def _sample(subject: Subject, settings: SweepSettings) -> SampledSides:
    rng = np.random.default_rng([settings.seed, 40])
    data = sample_windows(subject.data, settings.windows, rng)
    if subject.controls is None:
        return SampledSides(data, None)
    return SampledSides(data, sample_windows(subject.controls, settings.windows, rng))


def _models(
    subject: Subject,
    settings: SweepSettings,
    sampled: SampledSides,
    progress: Progress,
    resamples: Resamples,
) -> tuple[Piece, list[FurtherModel]]:
    if not settings.models:
        return Piece(), []
    asker = None
    if settings.batch_size is not None:
        asker = Asker(subject.config.scores, subject.suffix_tokens, settings.batch_size)
    return sweep_models(subject, settings.models, sampled, asker, progress, resamples)


def _elsewhere(subject: Subject, sampled: Sampled, further: Sequence[FurtherModel]) -> Bools | None:
    """Return a mask (N,) of windows that a further model extracts and the audited model does not.

    None without further models, or if not all windows were sampled.
    """
    if not further or not sampled.is_all:
        return None
    given = np.any([model.data.exact for model in further], axis=0)
    return np.asarray(given & ~subject.data.extracted)


def _diagnosis(
    settings: SweepSettings, pieces: Sequence[Piece], *, has_controls: bool
) -> Diagnosis:
    notes = [note for piece in pieces for note in piece.notes]
    if not has_controls:
        notes.insert(
            0,
            "The run had no controls, so every curve counts guessable text as extracted. Scan with "
            "--controls to measure how much that is.",
        )
    return Diagnosis(
        name="sweep",
        about=_ABOUT,
        findings=[finding for piece in pieces for finding in piece.findings],
        notes=notes,
        tables=[table for piece in pieces for table in piece.tables],
        plots=[plot for piece in pieces for plot in piece.plots],
        settings=_words(settings),
    )


def _words(settings: SweepSettings) -> dict[str, str]:
    """Return the settings that the figures depend on."""
    words = {
        "windows": f"{settings.windows:,}",
        "prefix lengths": ", ".join(map(str, settings.prefix_lengths)),
        "seed": str(settings.seed),
    }
    if settings.models:
        words["further models"] = f"{len(settings.models)}"
    if settings.by is not None:
        words["repetitions by"] = settings.by
    if settings.fits:
        words["windows of fits"] = f"{settings.fit_windows:,}"
        words["virtual tokens"] = ", ".join(map(str, settings.virtual_tokens))
        words["seeds"] = str(settings.seeds)
    return words
