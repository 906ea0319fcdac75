"""``diagnose sweep``: extraction against prefix, suffix, samples, repetitions, model and prompt.

Knows the settings and the order of the pieces. Each stands in a module of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.diagnose.disclosure import ALL_WITHHELD
from memaudit.diagnose.subject import Subject
from memaudit.diagnose.sweep.drawing import DrawnSides, draw_windows
from memaudit.diagnose.sweep.figures import Drawn, Piece
from memaudit.diagnose.sweep.fits import Usable, check_fits
from memaudit.diagnose.sweep.fitting import Limits, sweep_fits
from memaudit.diagnose.sweep.models import Other, sweep_models
from memaudit.diagnose.sweep.passes import Asker
from memaudit.diagnose.sweep.prefixes import sweep_prefixes
from memaudit.diagnose.sweep.repetitions import sweep_repetitions
from memaudit.diagnose.sweep.sampling import sweep_sampling
from memaudit.diagnose.sweep.settings import SweepSettings
from memaudit.diagnose.sweep.suffixes import sweep_suffixes
from memaudit.report.diagnosis import Diagnosis
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools

_ABOUT = (
    "How extraction grows with what an attacker has: prefix tokens shown, samples drawn (Hayes et "
    "al. 2024), suffix tokens asked for, repetitions in training, the model's size, and with fits "
    "the soft prompt's length, start and depth (Wang et al. 2024). One pass serves every suffix "
    "length, one more each prefix length and each further model."
)


def diagnose_sweep(subject: Subject, settings: SweepSettings, progress: Progress) -> Diagnosis:
    """Extraction against everything that drives it. Raises UsageError for a column or a model that
    does not fit, and what models and fits raise.
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
    )  # it may be refused
    usable = _usable(subject, settings)
    drawn = _draw(subject, settings)
    models, others = _models(subject, settings, drawn, progress, resamples)
    asker = Asker(subject.config.scores, subject.suffix_tokens, subject.batch_size)
    pieces = [
        models,
        sweep_sampling(data, controls, asked, subject.config.scores, resamples),
        sweep_prefixes(subject, settings.prefix_lengths, drawn, asker, progress, resamples),
        sweep_suffixes(data, controls, subject.suffix_tokens, ran, resamples),
        repetitions,
    ]
    if usable is not None:
        limits = Limits(settings.fit_windows, settings.seeds, settings.seed)
        elsewhere = _elsewhere(subject, drawn.data, others)
        pieces.insert(0, sweep_fits(subject, usable, limits, elsewhere, progress, resamples))
    return _diagnosis(settings, pieces, has_controls=has_controls)


def _without_few_controls(subject: Subject) -> Subject:
    """Return the subject, its controls left out where no figure of them may be written."""
    controls = subject.controls
    if controls is None or subject.disclosure.admits("controls", controls.clusters):
        return subject
    return replace(subject, controls=None)


def _usable(subject: Subject, settings: SweepSettings) -> Usable | None:
    """What can be fitted, looked at before hours are spent; None where no fits are asked for."""
    if not settings.fits:
        return None
    return check_fits(subject, settings.virtual_tokens)


def _draw(subject: Subject, settings: SweepSettings) -> DrawnSides:
    rng = np.random.default_rng([settings.seed, 40])
    data = draw_windows(subject.data, settings.windows, rng)
    if subject.controls is None:
        return DrawnSides(data, None)
    return DrawnSides(data, draw_windows(subject.controls, settings.windows, rng))


def _models(
    subject: Subject,
    settings: SweepSettings,
    drawn: DrawnSides,
    progress: Progress,
    resamples: Resamples,
) -> tuple[Piece, list[Other]]:
    if not settings.models:
        return Piece(), []
    asker = None
    if settings.batch_size is not None:
        asker = Asker(subject.config.scores, subject.suffix_tokens, settings.batch_size)
    return sweep_models(subject, settings.models, drawn, asker, progress, resamples)


def _elsewhere(subject: Subject, drawn: Drawn, others: Sequence[Other]) -> Bools | None:
    """(N,) windows that a further model gives away and the audited one does not; None where not
    all were looked at.
    """
    if not others or not drawn.is_all:
        return None
    given = np.any([other.data.exact for other in others], axis=0)
    return np.asarray(given & ~subject.data.extracted)


def _diagnosis(
    settings: SweepSettings, pieces: Sequence[Piece], *, has_controls: bool
) -> Diagnosis:
    notes = [note for piece in pieces for note in piece.notes]
    if not has_controls:
        notes.insert(
            0,
            "The run had no controls, so what anybody could have guessed counts as extracted in "
            "every curve; scan with --controls to see how much that is.",
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
    """What decided the figures."""
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
