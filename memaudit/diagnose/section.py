"""Findings, tables and plots of a report, and the forms that all diagnoses share.

Knows names, colours and units. Knows no model, and no meaning of a figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import Column, Diagnosis, DiagnosisName, FigureTable, Plot
from memaudit.score.estimate import Estimate, Unit
from memaudit.score.stats import Ints

COLOURS = {
    "extracted": "series-1",
    "hidden": "series-4",
    "partly extracted": "series-5",
    "not extracted": "series-2",
    "untouched": "series-2",
    "controls": "series-3",
}
"""Colour of each group of windows in every plot."""
_MOST_TICKS = 16


@dataclass(frozen=True)
class Section:
    """Part of a diagnosis; or all of it, but for its name."""

    findings: Sequence[str] = ()
    notes: Sequence[str] = ()
    tables: Sequence[FigureTable] = ()
    plots: Sequence[Plot] = ()

    @classmethod
    def joined(cls, sections: Iterable[Section]) -> Section:
        """Return the sections as one, in this order."""
        every = list(sections)
        return cls(
            [finding for section in every for finding in section.findings],
            [note for section in every for note in section.notes],
            [table for section in every for table in section.tables],
            [plot for section in every for plot in section.plots],
        )

    def diagnosis(
        self, name: DiagnosisName, about: str, settings: Mapping[str, object]
    ) -> Diagnosis:
        """Return the whole diagnosis."""
        words = {option: str(value) for option, value in settings.items()}
        return Diagnosis(name, about, self.findings, self.notes, self.tables, self.plots, words)


def heads(unit: Unit, *names: str) -> list[Column]:
    """Return the heads of columns of one unit."""
    return [Column(name, unit) for name in names]


def block_axis(numbers: Sequence[int]) -> Axis:
    """Return the axis of a model's depth."""
    step = -(-len(numbers) // _MOST_TICKS)
    return Axis("block", ticks=[float(number) for number in numbers[::step]])


def group_line(
    group: str,
    x: Sequence[float],
    estimates: Sequence[Estimate | None],
    *,
    name: str | None = None,
    marker: str = "",
) -> Line:
    """Return the curve of a group of windows, named after it; that of controls is dotted."""
    dash = ":" if group == "controls" else "-"
    return Line.of(name or group, COLOURS[group], x, estimates, dash=dash, marker=marker)


def count_clusters(clusters: Ints) -> int:
    """Return the number of near-duplicate clusters of windows (N,)."""
    return len(np.unique(clusters))
