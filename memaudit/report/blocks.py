"""Blocks of a report: text, facts and tables, the same in the terminal, Markdown and HTML.

Knows the form of a block and how a figure is written. Knows nothing of formats: each renderer
neutralises the text. A diagnosis brings blocks of its own (`diagnosis.FigureTable`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from memaudit.report.diagnosis import Cell, Column, FigureTable
from memaudit.score.estimate import MISSING, Estimate, Unit, figure_text


@dataclass(frozen=True)
class Head(Column):
    """Column of a report's own table; figures, which have a unit, stand on the right."""

    unit: Unit = "text"
    about: str = ""
    """Meaning, for the legend below the table; empty if the name says it."""
    priority: int = 0
    """0 if every terminal shows the column; a narrow one leaves out the highest numbers."""
    style: Literal["", "id", "prose", "verdict", "state"] = ""


@dataclass(frozen=True)
class Table(FigureTable):
    """Table of a report; its caption holds a note a line."""

    columns: Sequence[Head]
    strong: int | None = None
    """Index of the row to stress."""


@dataclass(frozen=True)
class Text:
    """Paragraphs."""

    lines: Sequence[str]
    style: Literal["", "lead", "soft", "items"] = ""
    """``lead`` stresses the first line, ``soft`` none, ``items`` makes a list."""


@dataclass(frozen=True)
class Facts:
    """Labelled lines under a title, which may be empty; a blank label continues the one before."""

    title: str
    rows: Sequence[tuple[str, str]]


Block = Text | Facts | FigureTable


def notes(table: FigureTable, columns: Iterable[Column]) -> list[str]:
    """Return the lines below a table of which these columns are shown: legend, then notes."""
    heads = [head for head in columns if isinstance(head, Head) and head.about]
    legend = " ".join(f"{head.name}: {head.about}." for head in heads)
    return list(filter(None, [legend, *table.says.split("\n")]))


def table_cells(table: FigureTable) -> list[list[str]]:
    """Return every row as text."""
    units = [column.unit for column in table.columns]
    return [
        [cell_text(cell, unit) for cell, unit in zip(row, units, strict=True)] for row in table.rows
    ]


def cell_text(cell: Cell, unit: Unit) -> str:
    """Return a cell as text: ``12.3 % (10.1 to 14.2)`` for a share with its interval."""
    if cell is None:
        return MISSING
    if isinstance(cell, str):
        return cell
    return cell.cell(unit) if isinstance(cell, Estimate) else figure_text(float(cell), unit)
