"""The page's sections of diagnoses: for each what was asked, what was found, and its cards.

Knows the record. Knows nothing of markup: the page escapes whatever stands here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memaudit.report.diagnosis import Diagnosis, DiagnosisRecord, FigureTable, Plot
from memaudit.report.diagnosis_cells import table_cells
from memaudit.report.page_figures import Card
from memaudit.report.plots import line_plot

_MOST_ROWS = 200
"""Of a table on the page; the JSON file has all."""


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
    made: str
    """When, and with which settings."""


def diagnosis_sections(records: tuple[DiagnosisRecord, ...]) -> list[Section]:
    """A section for each diagnosis that the run folder holds."""
    return [_section(record) for record in records]


def _section(record: DiagnosisRecord) -> Section:
    found = record.diagnosis
    plotted = {plot.name for plot in found.plots}
    settings = ", ".join(f"{name} {value}" for name, value in found.settings.items())
    return Section(
        name=found.name,
        about=found.about,
        findings=list(found.findings),
        notes=list(found.notes),
        figures=list(_figures(found)),
        tables=[_card(found.name, table) for table in found.tables if table.name not in plotted],
        made=f"memaudit {record.version}, {record.started}" + (f"; {settings}" if settings else ""),
    )


def _figures(found: Diagnosis) -> Iterator[Card]:
    tables = {table.name: table for table in found.tables}
    for plot in found.plots:
        yield _card(found.name, tables.get(plot.name), plot)


def _card(diagnosis: str, table: FigureTable | None, plot: Plot | None = None) -> Card:
    shown = plot or table
    assert shown is not None  # callers give one
    name = f"{diagnosis}-{shown.name}"
    drawn = line_plot(name, plot.lines, plot.x, plot.y) if plot else ""
    head = [column.name for column in table.columns] if table else []
    rows = table_cells(table)[:_MOST_ROWS] if table else []
    return Card(name, shown.title, shown.says, drawn, head, rows)
