"""Probes of hidden states, and feed-forward units that extractions need.

Knows the two halves of the diagnosis; `probing` and `silencing` ask the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memaudit.attack.journal import Progress
from memaudit.diagnose.anatomy.blocks import Block, find_blocks
from memaudit.diagnose.neurons.probing import Probing, Scored, probe_run
from memaudit.diagnose.neurons.settings import NeuronsSettings
from memaudit.diagnose.neurons.silencing import Silencing, silence_run
from memaudit.diagnose.neurons.units import find_units
from memaudit.diagnose.subject import Subject
from memaudit.errors import TargetError, UsageError


@dataclass(frozen=True, eq=False)
class Measurements:
    """Scores of the probes, and effects of the silenced units."""

    probing: Probing[Scored]
    silencing: Silencing | None
    reason: str
    """Reason, if ``silencing`` is None."""

    @property
    def without_units(self) -> int:
        """Number of blocks without units."""
        units = None if self.silencing is None else self.silencing.units
        return self.probing.depth - (0 if units is None else len(units.blocks))


def measure(subject: Subject, settings: NeuronsSettings, progress: Progress) -> Measurements:
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
    return Measurements(probing, *_silence(subject, settings, blocks, progress))


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
