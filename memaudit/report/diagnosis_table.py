"""Terminal view of a diagnosis: the findings, then the figures.

Knows Rich, the width and the record. Knows nothing of runs or models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from memaudit.report.diagnosis import DiagnosisRecord, FigureTable
from memaudit.report.diagnosis_cells import table_cells
from memaudit.report.rendering import (
    GLUE,
    PROSE_WIDTH,
    glue_units,
    harmless,
    prose,
    titled_table,
    to_text,
)
from memaudit.report.wording import neutral

_LEAST_WIDTH = 72
_GAP = 2
"""Terminal columns between two table columns."""
_NAME_WIDTH = 24
"""Widest column of names, in terminal columns, before its lines are broken."""


def render_diagnosis(record: DiagnosisRecord, *, width: int, color: bool) -> str:
    """Render the findings, tables, notes and provenance as text."""
    width = max(width, _LEAST_WIDTH)
    return to_text(_parts(record, width), width=width, color=color)


def _parts(record: DiagnosisRecord, width: int) -> Iterator[RenderableType]:
    diagnosis = record.diagnosis
    yield harmless(f"{diagnosis.name}: {record.target}", "bold")
    yield prose(harmless(diagnosis.about, "dim"))
    yield Text()
    yield _points(diagnosis.findings)
    for table in diagnosis.tables:
        yield Text()
        yield from _tables(table, width)
        yield prose(harmless(table.says, "dim"))
    yield Text()
    yield _labelled(record)


def _points(lines: Sequence[str]) -> Table:
    """Render sentences as a bulleted list."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column()
    grid.add_column(max_width=PROSE_WIDTH)
    for line in lines:
        grid.add_row(Text("-"), harmless(line))
    return grid


def _tables(table: FigureTable, width: int) -> Iterator[RenderableType]:
    """Yield the table, split into parts below each other where needed to keep figures whole.

    Each part repeats the columns that name the rows.
    """
    cells = table_cells(table)
    names = max(1, next(_figure_columns(table), len(table.columns)))
    rest = range(names, len(table.columns))
    wide = [_least_width(table, cells, place) for place in range(len(table.columns))]
    room = width - sum(wide[:names]) - names * _GAP
    parts: list[list[int]] = [[]]
    for place in rest:
        if parts[-1] and sum(wide[index] + _GAP for index in (*parts[-1], place)) > room:
            parts.append([])
        parts[-1].append(place)
    for number, part in enumerate(parts):
        title = f"{table.title}, continued" if number else table.title
        if number:
            yield Text()
        yield _part(titled_table(neutral(title)), table, cells, [*range(names), *part], width)


def _part(
    grid: Table, table: FigureTable, cells: list[list[str]], places: list[int], width: int
) -> Table:
    """Fill a grid with some columns, at full width, or at their least width where space is short.

    All widths are set here: Rich would take space from figures as well as from names.
    """
    whole = [_whole_width(table, cells, place) for place in places]
    narrow = sum(whole) + (len(places) - 1) * _GAP > width
    least = [_least_width(table, cells, place) for place in places]
    for place, size in zip(places, least if narrow else whole, strict=True):
        column = table.columns[place]
        justify: JustifyMethod = "left" if column.unit == "text" else "right"
        grid.add_column(harmless(column.name), justify=justify, width=size)
    for row in cells:
        grid.add_row(*(_cell(row[place], in_two=narrow) for place in places))
    return grid


def _whole_width(table: FigureTable, cells: list[list[str]], place: int) -> int:
    """Return the width of the longest unbroken cell, in terminal columns."""
    return max(len(table.columns[place].name), *(len(row[place]) for row in cells), 1)


def _figure_columns(table: FigureTable) -> Iterator[int]:
    return (place for place, column in enumerate(table.columns) if column.unit != "text")


def _least_width(table: FigureTable, cells: list[list[str]], place: int) -> int:
    """Return the width of the longest figure, or of the longest word of names."""
    head = glue_units(table.columns[place].name).split()
    if table.columns[place].unit == "text":
        pieces = [word for row in cells for word in row[place].split()]
        whole = max((len(row[place]) for row in cells), default=0)
        return max([min(whole, _NAME_WIDTH), *map(len, (*head, *pieces))])
    pieces = [piece for row in cells for piece in row[place].replace(" (", "\n(").split("\n")]
    return max(map(len, (*head, *pieces)))


def _cell(cell: str, in_two: bool) -> Text:
    """Return a cell with its interval unbroken, below the figure if ``in_two``."""
    text = harmless(cell)
    if "(" not in cell:
        return text
    line = text.plain.replace(" to ", f"{GLUE}to{GLUE}")
    figure, bracket, interval = line.partition(" (")
    return Text(f"{figure}\n({interval}" if in_two and bracket else line, overflow="fold")


def _labelled(record: DiagnosisRecord) -> Table:
    """Render notes, settings and the run, each with its label."""
    diagnosis = record.diagnosis
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(max_width=PROSE_WIDTH)
    for place, note in enumerate(diagnosis.notes):
        grid.add_row(Text("" if place else "Notes"), harmless(note))
    settings = ", ".join(f"{name} {value}" for name, value in diagnosis.settings.items())
    if settings:
        grid.add_row(Text("Settings"), harmless(settings))
    spent = sum(record.seconds.values())
    grid.add_row(
        Text("Run"), harmless(f"memaudit {record.version}, {record.started}, {spent:.0f} s")
    )
    return grid
