"""The result of a diagnosis: sentences, tables and plots of plain figures.

Knows the form that all of them share, so that every format shows each alike. Knows nothing of
how they come about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from memaudit.report.curves import Axis, Line
from memaudit.score.estimate import Estimate, Unit

DiagnosisName = Literal["latent", "layers", "neurons", "sweep", "signals", "attention"]
DIAGNOSES: tuple[DiagnosisName, ...] = (
    *("latent", "layers", "neurons"),
    *("sweep", "signals", "attention"),
)
"""Every one, in the order of the page."""
Cell = str | int | float | Estimate | None


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    name: str
    unit: Unit


@dataclass(frozen=True)
class FigureTable:
    """Figures side by side; the first column names the row."""

    name: str
    """Part of ids and of file names: letters and hyphens."""
    title: str
    says: str
    """What is to be seen and how the figures were made, in a sentence or three."""
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Plot:
    """Curves over one another; the figures of each stand in the table of the same name."""

    name: str
    """Likewise; that of the table with these figures, where there is one."""
    title: str
    says: str
    x: Axis
    y: Axis
    lines: Sequence[Line]


@dataclass(frozen=True)
class Diagnosis:
    """Everything one diagnosis of a run found."""

    name: DiagnosisName
    about: str
    """What is asked and how it is answered, with the source of the method, in a sentence or two."""
    findings: Sequence[str]
    """What came out, the most important first: a sentence each, with figures and intervals."""
    notes: Sequence[str]
    """What a reader has to know so as not to be misled; a sentence each."""
    tables: Sequence[FigureTable]
    plots: Sequence[Plot]
    settings: Mapping[str, str] = field(default_factory=dict)
    """What decided the figures: option to value."""


@dataclass(frozen=True)
class DiagnosisRecord:
    """A diagnosis, and how and of what it was made."""

    version: str
    """Of memaudit."""
    run_results: str
    """SHA-256 of the figures of the run that was diagnosed, as its report has it."""
    target: str
    """The model, as the run names it."""
    command: str
    started: str
    """ISO 8601, UTC."""
    finished: str
    seconds: Mapping[str, float]
    """Wall time of each stage."""
    libraries: Mapping[str, str]
    """Package to version."""
    machine: Mapping[str, str]
    """Platform, processor count, accelerator."""
    diagnosis: Diagnosis
