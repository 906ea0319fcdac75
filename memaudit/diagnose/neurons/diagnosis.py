"""Which hidden states tell extracted windows, and which feed-forward units an extraction needs.

Knows how the two halves of the question are asked of a run, and how what they find goes together.
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
from memaudit.diagnose.neurons.silencing import silence_run
from memaudit.diagnose.neurons.silencing_found import Silencing
from memaudit.diagnose.neurons.silencing_report import Figures, silencing_findings, silencing_notes
from memaudit.diagnose.neurons.silencing_tables import silencing_plots, silencing_tables
from memaudit.diagnose.neurons.units import find_units
from memaudit.diagnose.subject import Subject
from memaudit.errors import TargetError, UsageError
from memaudit.report.diagnosis import Diagnosis

__all__ = ["NeuronsSettings", "diagnose_neurons"]

_ABOUT = (
    "Linear probes on hidden states: do they tell extracted windows from other text (Slonski 2024, "
    "arXiv 2412.01014)? And feed-forward units that stop an extraction when silenced: how "
    "small a set will do, and what it costs elsewhere (the idea of NeMo, Hintersdorf et al. 2024, "
    "arXiv 2406.02366, moved to language models)."
)


def diagnose_neurons(subject: Subject, settings: NeuronsSettings, progress: Progress) -> Diagnosis:
    """Probe hidden states, and search the units of single extractions.

    Raises:
        UsageError: nothing was extracted, so that there is nothing to look for.
        TargetError: the model's blocks cannot be found.
    """
    if not subject.data.extracted.any():
        raise UsageError(
            f"{subject.run.folder}: attack none extracted no window, so there is nothing whose "
            "neurons could be looked for"
        )
    blocks = find_blocks(subject.checkpoint)
    probing = probe_run(subject, settings, blocks, progress)
    silencing, refused = _silence(subject, settings, blocks, progress)
    findings, notes = [], []
    tables, plots = [], []
    if silencing is not None:
        figures = Figures(silencing, subject.resamples(settings.seed))
        findings += silencing_findings(figures)
        notes += silencing_notes(figures)
        beyond = len(blocks) - len(silencing.units.blocks)
        if beyond:
            notes.append(
                f"{beyond} of {len(blocks)} blocks have no units that could be silenced one by one "
                "(fused experts, or no feed-forward part), and were left as they are."
            )
        tables += silencing_tables(figures)
        plots += silencing_plots(figures)
    else:
        findings.append(refused)
    return Diagnosis(
        name="neurons",
        about=_ABOUT,
        findings=[*findings, *probing_findings(probing)],
        notes=[*notes, *probing_notes(probing)],
        tables=[*tables, *probing_tables(probing)],
        plots=[*plots, *probing_plots(probing)],
        settings=_told(settings),
    )


def _silence(
    subject: Subject, settings: NeuronsSettings, blocks: Sequence[Block], progress: Progress
) -> tuple[Silencing | None, str]:
    """What was silenced, or why nothing was."""
    try:
        units = find_units(subject.checkpoint, blocks)
        found = silence_run(subject, settings, units, progress)
    except TargetError as error:
        return None, f"No units were silenced: {error}."
    if subject.disclosure.withheld:
        return found, "No units were silenced: the windows are too few for figures of them."
    return found, (
        "No units were silenced: no window that the run says is extracted comes out in a pass made "
        "here, which other rounding can do where two tokens are nearly tied."
    )


def _told(settings: NeuronsSettings) -> dict[str, str]:
    names = (
        *("windows", "probe_blocks", "unit_windows", "most_units", "silence", "erased"),
        *("trials", "random_sets", "cost_windows", "seed"),
    )
    return {name: str(getattr(settings, name)) for name in names}
