"""Extraction against prefix, suffix, samples, repetitions, model and prompt.

Knows the order of the parts. Each part has a module.
"""

from __future__ import annotations

from memaudit.diagnose.disclosure import ALL_WITHHELD, Disclosure
from memaudit.diagnose.section import Section
from memaudit.diagnose.sweep.measure import DEFAULT_COLUMN, Measurements
from memaudit.diagnose.sweep.models import sweep_models
from memaudit.diagnose.sweep.prefixes import sweep_prefixes
from memaudit.diagnose.sweep.prompts import sweep_fits
from memaudit.diagnose.sweep.repetitions import sweep_repetitions
from memaudit.diagnose.sweep.sampling import sweep_sampling
from memaudit.diagnose.sweep.settings import SweepSettings
from memaudit.diagnose.sweep.suffixes import sweep_suffixes
from memaudit.diagnose.sweep.view import View
from memaudit.report.diagnosis import Diagnosis
from memaudit.score.resample import Resamples

ABOUT = (
    "Extraction against prefix tokens, number of samples (Hayes et al. 2024), suffix tokens, "
    "repetitions in training, model size and, with fits, the soft prompt's length, start and depth "
    "(Wang et al. 2024). The run serves every suffix length; each prefix length and each further "
    "model takes one more pass."
)
_NO_CONTROLS = (
    "The run had no controls, so every curve counts guessable text as extracted. Scan with "
    "--controls to measure how much that is."
)


def report(
    measured: Measurements | None,
    settings: SweepSettings,
    resamples: Resamples,
    disclosure: Disclosure,
) -> Diagnosis:
    """Describe extraction against each factor."""
    section = Section([ALL_WITHHELD])
    if measured is not None:
        section = Section.joined(_sections(measured, settings, resamples, disclosure))
    return section.diagnosis("sweep", ABOUT, _words(settings))


def _sections(
    measured: Measurements, settings: SweepSettings, resamples: Resamples, disclosure: Disclosure
) -> list[Section]:
    view = View(measured.parts, resamples)
    attacks, column = view.data.attacks, settings.by or DEFAULT_COLUMN
    sections = [] if measured.had_controls else [Section(notes=[_NO_CONTROLS])]
    if measured.fits is not None:
        sections.append(sweep_fits(measured.fits, resamples, disclosure))
    if measured.further:
        sections.append(sweep_models(view, measured))
    return [
        *sections,
        sweep_sampling(view, attacks, measured.scores),
        sweep_prefixes(view, measured),
        sweep_suffixes(view, measured.suffix_tokens, measured.ran),
        sweep_repetitions(view, column, measured.repetitions, attacks),
    ]


def _words(settings: SweepSettings) -> dict[str, object]:
    """Return the settings that the figures depend on."""
    words: dict[str, object] = {
        "windows": f"{settings.windows:,}",
        "prefix lengths": ", ".join(map(str, settings.prefix_lengths)),
        "seed": settings.seed,
    }
    if settings.models:
        words["further models"] = len(settings.models)
    if settings.by is not None:
        words["repetitions by"] = settings.by
    if settings.fits:
        words["windows of fits"] = f"{settings.fit_windows:,}"
        words["virtual tokens"] = ", ".join(map(str, settings.virtual_tokens))
        words["seeds"] = settings.seeds
    return words
