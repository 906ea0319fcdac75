"""Terminal view of blocks, and of the reports made of them.

Knows Rich and the width. Knows nothing of terminals: it renders into a string. Every string from
outside goes through `neutral` into a Rich Text, never into markup.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod, RenderableType
from rich.table import Table as Grid
from rich.text import Text as Line

from memaudit.report.blocks import Block, Facts, Head, Text, notes, table_cells
from memaudit.report.diagnosis import Column, DiagnosisRecord, FigureTable
from memaudit.report.model import Report
from memaudit.report.provenance import provenance
from memaudit.report.reading import verdict
from memaudit.report.sections import gates, ladder, leaks, origins, revealed, worst_windows
from memaudit.report.wording import neutral, no_commands

PROSE_WIDTH = 100
"""Widest line of prose, in columns: longer ones are hard to read."""
GLUE = "\ue000"
"""Placeholder for a non-breaking space, which ``neutral`` never lets through."""
LEAST_WIDTH, _LEAST_REPORT_WIDTH = 72, 78
"""Narrower tables are unreadable; a narrower terminal wraps whole lines instead."""
_WORST = 10
_GAP = 2
"""Terminal columns between two table columns."""
_NAME_WIDTH, _LONGEST_WORD = 24, 40
"""Widest column of names before its lines, and before its words, are broken."""
_ID_WIDTH = 12
"""Narrowest column of ids, which may be broken anywhere."""
_PROSE_CELL = PROSE_WIDTH - 26
_COLOURS = {
    "pass": "bold green",
    **dict.fromkeys(("fail", "changed", "missing"), "bold red"),
    **dict.fromkeys(("inconclusive", "not ok", "extra", "unproven", "not checked"), "bold yellow"),
}


def render_report(report: Report, windows: pd.DataFrame, *, width: int, color: bool) -> str:
    """Render a run's report in ``width`` columns, with or without ANSI colour.

    Shows ids, lines and figures; text of windows only if the table holds it.
    """
    texts = revealed(report, windows, _WORST)
    blocks: list[Block] = [
        Text(report.headline, "lead"),
        *leaks(report),
        *gates(report),
        ladder(report),
        *origins(report),
        *worst_windows(report, windows, _WORST),
        *([Text(["Text of the worst windows"], "lead")] if texts else []),
        *texts,
        provenance(report),
        Text([report.summary, verdict(report)[1]], "lead"),  # what is left on the screen
    ]
    return render_blocks(blocks, width=max(width, _LEAST_REPORT_WIDTH), color=color)


def render_diagnosis(record: DiagnosisRecord, *, width: int, color: bool) -> str:
    """Render the findings, tables, notes and provenance of a diagnosis."""
    diagnosis = record.diagnosis
    settings = ", ".join(f"{name} {value}" for name, value in diagnosis.settings.items())
    spent = sum(record.seconds.values())
    labelled = [("" if place else "Notes", note) for place, note in enumerate(diagnosis.notes)]
    labelled += [("Settings", settings)] if settings else []
    labelled += [("Run", f"memaudit {record.version}, {record.started}, {spent:.0f} s")]
    blocks: list[Block] = [
        Text([f"{diagnosis.name}: {record.target}", diagnosis.about], "lead"),
        Text(diagnosis.findings, "items"),
        *diagnosis.tables,
        Facts("", labelled),
    ]
    return render_blocks(blocks, width=width, color=color)


def render_blocks(blocks: Iterable[Block], *, width: int, color: bool) -> str:
    """Render blocks below each other, a blank line between each two."""
    width = max(width, LEAST_WIDTH)
    parts: list[RenderableType] = []
    for block in blocks:
        parts += [*([Line()] if parts else []), *_rendered(block, width)]
    return to_text(parts, width=width, color=color)


def _rendered(block: Block, width: int) -> Iterator[RenderableType]:
    if isinstance(block, Facts):
        yield from [harmless(block.title, "bold")] if block.title else []
        yield _labelled(block.rows, "bold")
    elif isinstance(block, FigureTable):
        yield from _table(block, width)
    elif block.style == "items":
        yield _labelled([("-", line) for line in block.lines], "")
    else:
        styles = {"lead": ("bold", ""), "soft": ("dim", "dim")}.get(block.style, ("", ""))
        yield prose(*(harmless(line, styles[n > 0]) for n, line in enumerate(block.lines)))


def _labelled(rows: Iterable[tuple[str, str]], style: str) -> Grid:
    grid = Grid.grid(padding=(0, 2 if style else 1, 0, 0))
    grid.add_column(style=style, no_wrap=True)
    grid.add_column(max_width=PROSE_WIDTH - 10)
    for label, line in rows:
        grid.add_row(harmless(label), harmless(line))
    return grid


class _Column(NamedTuple):
    """A column with its cells as text; widths are in terminal columns."""

    column: Column
    cells: list[str]
    whole: int
    """Width at which no line is broken."""
    least: int
    """Width at which no figure and no word is broken."""

    @property
    def is_text(self) -> bool:
        return self.column.unit == "text"

    @property
    def unbroken(self) -> int:
        """Width at which a figure stands on one line with its interval; names may be broken."""
        return self.least if self.is_text else max(self.least, *map(cell_len, self.cells), 0)

    @property
    def style(self) -> str:
        return self.column.style if isinstance(self.column, Head) else ""

    @property
    def priority(self) -> int:
        return self.column.priority if isinstance(self.column, Head) else 0


def _measured(column: Column, cells: list[str]) -> _Column:
    style = column.style if isinstance(column, Head) else ""
    longest = max(map(cell_len, cells), default=1)
    words = re.split(r" |(?<=-)", glue_units(column.name))
    whole = max(len(column.name), longest)
    if style == "prose":
        return _Column(column, cells, min(whole, _PROSE_CELL), min(whole, _NAME_WIDTH))
    if style == "id":
        return _Column(column, cells, whole, min(whole, max(_ID_WIDTH, *map(len, words))))
    if column.unit == "text":
        pieces = [word for cell in cells for word in cell.split()]
        words += [*pieces, "x" * min(longest, _NAME_WIDTH)]
        return _Column(column, cells, whole, min(_LONGEST_WORD, max(map(cell_len, words))))
    pieces = [piece for cell in cells for piece in cell.replace(" (", "\n(").split("\n")]
    return _Column(column, cells, whole, max(map(cell_len, (*words, *pieces))))


def _table(table: FigureTable, width: int) -> Iterator[RenderableType]:
    """Yield the title, the table and its notes.

    In a narrow terminal columns of low priority are left out, then cells are broken, then the
    table is split into parts below each other, each with the columns that name the rows.
    """
    cells = [[neutral(cell) for cell in row] for row in table_cells(table)]
    columns = [
        _measured(column, [row[place] for row in cells])
        for place, column in enumerate(table.columns)
    ]
    while _total(c.unbroken for c in columns) > width and any(c.priority for c in columns):
        highest = max(c.priority for c in columns)
        columns = [c for c in columns if c.priority < highest]
    for number, part in enumerate(_parts(columns, width)):
        if number:
            yield Line()
        yield harmless(f"{table.title}, continued" if number else table.title, "bold")
        yield _grid(part, _widths(part, width), getattr(table, "strong", None))
    if lines := notes(table, [c.column for c in columns]):
        yield prose(*(harmless(line, "dim") for line in lines))


def _total(sizes: Iterable[int]) -> int:
    sizes = list(sizes)
    return sum(sizes) + _GAP * (len(sizes) - 1)


def _parts(columns: Sequence[_Column], width: int) -> list[list[_Column]]:
    """Split columns so that each part fits at least width; each repeats the names of the rows."""
    first_figure = next((n for n, c in enumerate(columns) if not c.is_text), len(columns))
    names = list(columns[: max(1, first_figure)])
    parts = [names]
    for column in columns[len(names) :]:
        fits = _total(c.least for c in (*parts[-1], column)) <= width
        if fits or len(parts[-1]) == len(names):
            parts[-1] = [*parts[-1], column]
        else:
            parts.append([*names, column])
    return parts


def _widths(columns: Sequence[_Column], width: int) -> list[int]:
    """Return the width of each column: whole where there is room, the cheapest first.

    Where not all fit, every interval stands below its figure. All widths are set here: Rich would
    take space from figures as well as from names.
    """
    sizes = [c.least for c in columns]
    room = max(0, width - _total(sizes))
    all_fit = _total(c.whole for c in columns) <= width
    for place in sorted(range(len(columns)), key=lambda n: columns[n].whole - columns[n].least):
        column = columns[place]
        wanted = column.whole - column.least
        in_two = not column.is_text and any(cell_len(x) > column.least for x in column.cells)
        if all_fit or column.is_text or (wanted <= room and not in_two):
            sizes[place] += min(wanted, room)
            room -= min(wanted, room)
    return sizes


def _grid(columns: Sequence[_Column], sizes: Sequence[int], strong: int | None) -> Grid:
    grid = Grid(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )
    for column, size in zip(columns, sizes, strict=True):
        justify: JustifyMethod = "left" if column.is_text else "right"
        head = harmless(column.column.name)
        if any(len(word) > size for word in head.plain.split()):
            head = Line(head.plain.replace("-", "-\n"), overflow="fold")
        grid.add_column(head, justify=justify, width=size)
    rows = zip(*(_lines(c, size) for c, size in zip(columns, sizes, strict=True)), strict=True)
    for number, row in enumerate(rows):
        grid.add_row(*row, style="bold" if number == strong else "")
    return grid


def _lines(column: _Column, size: int) -> Iterator[Line]:
    """Yield a column's cells; intervals below their figures where one does not fit beside."""
    in_two = any(cell_len(cell) > size for cell in column.cells)
    for cell in column.cells:
        if column.style in ("verdict", "state"):
            word = cell.upper() if column.style == "verdict" else cell
            yield harmless(word, _COLOURS.get(cell, ""))
        elif "(" not in cell or column.is_text:
            yield harmless(cell)
        else:
            line = harmless(cell).plain.replace(" to ", f"{GLUE}to{GLUE}")
            figure, bracket, interval = line.partition(" (")
            whole = f"{figure}\n({interval}" if in_two and bracket else line
            yield Line(whole, overflow="fold")


def glue_units(line: str) -> str:
    """Put GLUE between figures and their units."""
    return line.replace(" %", f"{GLUE}%").replace(" = ", f"{GLUE}={GLUE}")


def harmless(line: str, style: str = "") -> Line:
    """Return any text as one harmless line with figures kept beside their units."""
    return Line(glue_units(neutral(line)), style=style, overflow="fold")


def prose(*lines: Line) -> Grid:
    """Return lines below each other, none wider than PROSE_WIDTH."""
    grid = Grid.grid()
    grid.add_column(max_width=PROSE_WIDTH)
    for line in lines:
        grid.add_row(line)
    return grid


def to_text(parts: Iterable[RenderableType], *, width: int, color: bool) -> str:
    """Render the parts below each other, with no space at line ends."""
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system="standard" if color else None,
        force_terminal=color,
        force_jupyter=False,
        no_color=not color,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    lines = capture.get().replace(GLUE, " ").splitlines()
    return no_commands("\n".join(line.rstrip() for line in lines) + "\n")
