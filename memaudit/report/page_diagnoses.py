"""Sections of diagnoses on the page: question, findings and cards of each.

Knows the record. Knows nothing of markup: the page escapes all text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memaudit.report.diagnosis import Diagnosis, DiagnosisRecord, FigureTable, Plot
from memaudit.report.diagnosis_cells import table_cells
from memaudit.report.page_figures import Card
from memaudit.report.plots import line_plot

_MOST_ROWS = 200
"""Rows of a table on the page; the JSON file has all."""


@dataclass(frozen=True)
class Section:
    """One diagnosis."""

    name: str
    about: str
    findings: list[str]
    notes: list[str]
    figures: list[Card]
    """Plots, each with its figures."""
    tables: list[Card]
    """Tables without a plot."""
    provenance: str
    """Version, time and settings."""


def diagnosis_sections(records: tuple[DiagnosisRecord, ...]) -> list[Section]:
    """Return a section for each diagnosis in the run folder."""
    return [_section(record) for record in records]


def _section(record: DiagnosisRecord) -> Section:
    diagnosis = record.diagnosis
    plotted = {plot.name for plot in diagnosis.plots}
    settings = ", ".join(f"{name} {value}" for name, value in diagnosis.settings.items())
    return Section(
        name=diagnosis.name,
        about=diagnosis.about,
        findings=list(diagnosis.findings),
        notes=list(diagnosis.notes),
        figures=list(_figures(diagnosis)),
        tables=[
            _card(diagnosis.name, table) for table in diagnosis.tables if table.name not in plotted
        ],
        provenance=f"memaudit {record.version}, {record.started}"
        + (f"; {settings}" if settings else ""),
    )


def _figures(diagnosis: Diagnosis) -> Iterator[Card]:
    tables = {table.name: table for table in diagnosis.tables}
    for plot in diagnosis.plots:
        yield _card(diagnosis.name, tables.get(plot.name), plot)


def _card(diagnosis: str, table: FigureTable | None, plot: Plot | None = None) -> Card:
    titled = plot or table
    assert titled is not None  # callers give one
    name = f"{diagnosis}-{titled.name}"
    svg = line_plot(name, plot.lines, plot.x, plot.y) if plot else ""
    head = [column.name for column in table.columns] if table else []
    rows = table_cells(table)[:_MOST_ROWS] if table else []
    return Card(name, titled.title, titled.says, svg, head, rows)
