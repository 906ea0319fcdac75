"""``diagnose neurons``: probes of hidden states, and feed-forward units that extractions need.

Knows the two halves of the diagnosis and how their results are combined.
"""

from __future__ import annotations

from collections.abc import Sequence

from memaudit.attack.campaign import Progress
from memaudit.diagnose.anatomy.blocks import Block, find_blocks
from memaudit.diagnose.neurons.probing import probe_run
from memaudit.diagnose.neurons.probing_report import (
    probing_findings,
    probing_notes,
    probing_plots,
    probing_tables,
)
from memaudit.diagnose.neurons.settings import NeuronsSettings
from memaudit.diagnose.neurons.silencing import Figures, Silencing, silence_run
from memaudit.diagnose.neurons.silencing_report import (
    silencing_findings,
    silencing_notes,
    silencing_plots,
    silencing_tables,
)
from memaudit.diagnose.neurons.units import find_units
from memaudit.diagnose.subject import Subject
from memaudit.errors import TargetError, UsageError
from memaudit.report.diagnosis import Diagnosis

__all__ = ["NeuronsSettings", "diagnose_neurons"]

_ABOUT = (
    "Linear probes on hidden states: do they separate extracted windows from other text (Slonski "
    "2024, arXiv 2412.01014)? Feed-forward units that stop an extraction when silenced: how small "
    "a set is enough, and what does it cost elsewhere (NeMo, Hintersdorf et al. 2024, "
    "arXiv 2406.02366, applied to language models)?"
)


def diagnose_neurons(subject: Subject, settings: NeuronsSettings, progress: Progress) -> Diagnosis:
    """Probe hidden states, and search the units that single extractions need.

    Raises:
        UsageError: no window was extracted.
        TargetError: the model's blocks cannot be found.
    """
    if not subject.data.extracted.any():
        raise UsageError(
            f"{subject.run.folder}: attack none extracted no window, so there is no extraction "
            "to search neurons for"
        )
    blocks = find_blocks(subject.checkpoint)
    probing = probe_run(subject, settings, blocks, progress)
    silencing, reason = _silence(subject, settings, blocks, progress)
    findings, notes = [], []
    tables, plots = [], []
    if silencing is not None:
        figures = Figures(silencing, subject.resamples(settings.seed))
        findings += silencing_findings(figures)
        notes += silencing_notes(figures)
        left_out = len(blocks) - len(silencing.units.blocks)
        if left_out:
            notes.append(
                f"{left_out} of {len(blocks)} blocks have no units that can be silenced one by one "
                "(fused experts, or no feed-forward part). They were left unchanged."
            )
        tables += silencing_tables(figures)
        plots += silencing_plots(figures)
    else:
        findings.append(reason)
    return Diagnosis(
        name="neurons",
        about=_ABOUT,
        findings=[*findings, *probing_findings(probing)],
        notes=[*notes, *probing_notes(probing)],
        tables=[*tables, *probing_tables(probing)],
        plots=[*plots, *probing_plots(probing)],
        settings=_settings_text(settings),
    )


def _silence(
    subject: Subject, settings: NeuronsSettings, blocks: Sequence[Block], progress: Progress
) -> tuple[Silencing | None, str]:
    """Return the silencing and, if it is None, the reason."""
    try:
        units = find_units(subject.checkpoint, blocks)
        silencing = silence_run(subject, settings, units, progress)
    except TargetError as error:
        return None, f"No units were silenced: {error}."
    if subject.disclosure.withheld:
        return silencing, "No units were silenced: there are too few windows to report."
    return silencing, (
        "No units were silenced: this diagnosis could reproduce none of the run's extractions. "
        "Different rounding can cause this if two tokens are nearly tied."
    )


def _settings_text(settings: NeuronsSettings) -> dict[str, str]:
    names = (
        *("windows", "probe_blocks", "unit_windows", "most_units", "silence", "erased"),
        *("trials", "random_sets", "cost_windows", "seed"),
    )
    return {name: str(getattr(settings, name)) for name in names}
