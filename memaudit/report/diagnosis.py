"""Result of a diagnosis: sentences, tables and plots of plain figures.

Knows the form that all diagnoses share, so that every format shows each alike. Knows nothing of
how the figures are measured.
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
"""All diagnoses, in the order of the page."""
Cell = str | int | float | Estimate | None


@dataclass(frozen=True)
class Column:
    """Head of a column."""

    name: str
    unit: Unit


@dataclass(frozen=True)
class FigureTable:
    """Table of figures; the first column names the row."""

    name: str
    """Part of ids and of file names: letters and hyphens."""
    title: str
    says: str
    """Caption: what the table shows and how the figures were made, in one to three sentences."""
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Plot:
    """Curves in one plot; the table of the same name holds their figures."""

    name: str
    """Name as in FigureTable; equal to that of the table with these figures, if any."""
    title: str
    says: str
    x: Axis
    y: Axis
    lines: Sequence[Line]


@dataclass(frozen=True)
class Diagnosis:
    """All results of one diagnosis of a run."""

    name: DiagnosisName
    about: str
    """Question, method and source of the method, in a sentence or two."""
    findings: Sequence[str]
    """Findings, most important first: a sentence each, with figures and intervals."""
    notes: Sequence[str]
    """Caveats, so that a reader is not misled; a sentence each."""
    tables: Sequence[FigureTable]
    plots: Sequence[Plot]
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings that the figures depend on: option to value."""


@dataclass(frozen=True)
class DiagnosisRecord:
    """A diagnosis with its provenance."""

    version: str
    """Version of memaudit."""
    run_results: str
    """SHA-256 of the figures of the diagnosed run, from its report."""
    target: str
    """Model name, from the run."""
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
