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
_GAP = 2
"""Columns of a terminal between two of a table."""
_NAME_WIDTH = 24
"""What a column of names takes at most before it is broken into lines."""


def render_diagnosis(record: DiagnosisRecord, *, width: int, color: bool) -> str:
    """The findings, the tables, the notes and what it rests on, as text."""
    width = max(width, _LEAST_WIDTH)
    return to_text(_parts(record, width), width=width, color=color)


def _parts(record: DiagnosisRecord, width: int) -> Iterator[RenderableType]:
    found = record.diagnosis
    yield harmless(f"{found.name}: {record.target}", "bold")
    yield prose(harmless(found.about, "dim"))
    yield Text()
    yield _points(found.findings)
    for table in found.tables:
        yield Text()
        yield from _tables(table, width)
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


def _tables(table: FigureTable, width: int) -> Iterator[RenderableType]:
    """The table, or parts of it below each other, each behind the columns that name its rows, so
    that no figure is broken in two.
    """
    cells = table_cells(table)
    names = max(1, next(_figure_columns(table), len(table.columns)))
    others = list(range(names, len(table.columns)))
    wide = [_least_width(table, cells, place) for place in range(len(table.columns))]
    room = width - sum(wide[:names]) - names * _GAP
    parts: list[list[int]] = [[]]
    for place in others:
        if parts[-1] and sum(wide[one] + _GAP for one in (*parts[-1], place)) > room:
            parts.append([])
        parts[-1].append(place)
    for number, part in enumerate(parts):
        shown = titled_table(neutral(f"{table.title}, continued" if number else table.title))
        for place in (*range(names), *part):
            column = table.columns[place]
            least = None if column.unit == "text" else wide[place]
            shown.add_column(
                harmless(column.name),
                justify="left" if column.unit == "text" else "right",
                min_width=least,
            )
        for row in cells:
            shown.add_row(*(_cell(row[place]) for place in (*range(names), *part)))
        if number:
            yield Text()
        yield shown


def _figure_columns(table: FigureTable) -> Iterator[int]:
    return (place for place, column in enumerate(table.columns) if column.unit != "text")


def _least_width(table: FigureTable, cells: list[list[str]], place: int) -> int:
    """Columns of a terminal that the longest figure takes, or the longest word of names."""
    head = table.columns[place].name.split()
    if table.columns[place].unit == "text":
        pieces = [word for row in cells for word in row[place].split()]
        whole = max((len(row[place]) for row in cells), default=0)
        return max([min(whole, _NAME_WIDTH), *map(len, (*head, *pieces))])
    pieces = [piece for row in cells for piece in row[place].replace(" (", "\n(").split("\n")]
    return max(map(len, (*head, *pieces)))


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
