"""``diagnose sweep``: extraction against prefix, suffix, samples, repetitions, model and prompt.

Knows the settings and the order of the pieces. Each stands in a module of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memaudit.attack.campaign import Progress
from memaudit.diagnose.subject import Subject
from memaudit.diagnose.sure import Sure
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
    sure = Sure(subject.config.scores.confidence, subject.config.scores.bootstrap, settings.seed)
    data, controls = subject.data, subject.controls
    ran, asked = subject.run.attacks, data.attacks
    repetitions = sweep_repetitions(data, controls, settings.by, asked, sure)  # it may be refused
    usable = _usable(subject, settings)
    drawn = _draw(subject, settings)
    models, others = _models(subject, settings, drawn, progress, sure)
    asker = Asker(subject.config.scores, subject.suffix_tokens, subject.batch_size)
    pieces = [
        models,
        sweep_sampling(data, controls, asked, subject.config.scores, sure),
        sweep_prefixes(subject, settings.prefix_lengths, drawn, asker, progress, sure),
        sweep_suffixes(data, controls, subject.suffix_tokens, ran, sure),
        repetitions,
    ]
    if usable is not None:
        limits = Limits(settings.fit_windows, settings.seeds, settings.seed)
        elsewhere = _elsewhere(subject, drawn.data, others)
        pieces.insert(0, sweep_fits(subject, usable, limits, elsewhere, progress, sure))
    return _diagnosis(subject, settings, pieces)


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
    sure: Sure,
) -> tuple[Piece, list[Other]]:
    if not settings.models:
        return Piece(), []
    asker = None
    if settings.batch_size is not None:
        asker = Asker(subject.config.scores, subject.suffix_tokens, settings.batch_size)
    return sweep_models(subject, settings.models, drawn, asker, progress, sure)


def _elsewhere(subject: Subject, drawn: Drawn, others: Sequence[Other]) -> Bools | None:
    """(N,) windows that a further model gives away and the audited one does not; None where not
    all were looked at.
    """
    if not others or not drawn.is_all:
        return None
    given = np.any([other.data.exact for other in others], axis=0)
    return np.asarray(given & ~subject.data.extracted)


def _diagnosis(subject: Subject, settings: SweepSettings, pieces: Sequence[Piece]) -> Diagnosis:
    notes = [note for piece in pieces for note in piece.notes]
    if subject.controls is None:
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
