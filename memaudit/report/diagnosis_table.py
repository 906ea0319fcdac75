"""A diagnosis, as a terminal shows it: what was found, then the figures.

Knows Rich, the width there is and the record. Knows nothing of runs or models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from memaudit.diagnosis import DiagnosisRecord, FigureTable
from memaudit.report.diagnosis_cells import table_cells
from memaudit.report.rendering import GLUE, PROSE_WIDTH, harmless, prose, titled_table, to_text
from memaudit.report.wording import neutral

_LEAST_WIDTH = 60


def render_diagnosis(record: DiagnosisRecord, *, width: int, color: bool) -> str:
    """The findings, the tables, the notes and what it rests on, as text."""
    return to_text(_parts(record), width=max(width, _LEAST_WIDTH), color=color)


def _parts(record: DiagnosisRecord) -> Iterator[RenderableType]:
    found = record.diagnosis
    yield harmless(f"{found.name}: {record.target}", "bold")
    yield prose(harmless(found.about, "dim"))
    yield Text()
    yield _points(found.findings)
    for table in found.tables:
        yield Text()
        yield _table(table)
        yield prose(harmless(table.says, "dim"))
    yield Text()
    yield _labelled(record)


def _points(lines: Sequence[str]) -> Table:
    """Sentences with a mark before each."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column()
    grid.add_column(max_width=PROSE_WIDTH)
    for line in lines:
        grid.add_row(Text("-"), harmless(line))
    return grid


def _table(table: FigureTable) -> Table:
    shown = titled_table(neutral(table.title))
    for column in table.columns:
        shown.add_column(
            harmless(column.name), justify="left" if column.unit == "text" else "right"
        )
    for row in table_cells(table):
        shown.add_row(*map(_cell, row))
    return shown


def _cell(cell: str) -> Text:
    """A cell whose interval is not broken in two."""
    text = harmless(cell)
    whole = f"{GLUE}to{GLUE}"
    return Text(text.plain.replace(" to ", whole), overflow="fold") if "(" in cell else text


def _labelled(record: DiagnosisRecord) -> Table:
    """Notes and what the figures rest on, each behind its label."""
    found = record.diagnosis
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(max_width=PROSE_WIDTH)
    for place, note in enumerate(found.notes):
        grid.add_row(Text("" if place else "Notes"), harmless(note))
    settings = ", ".join(f"{name} {value}" for name, value in found.settings.items())
    if settings:
        grid.add_row(Text("Settings"), harmless(settings))
    spent = sum(record.seconds.values())
    grid.add_row(
        Text("Run"), harmless(f"memaudit {record.version}, {record.started}, {spent:.0f} s")
    )
    return grid
