"""Blocks of a report: text, facts and tables, the same in the terminal, Markdown and HTML.

Knows the form of a block and how a figure is written. Knows nothing of formats: each renderer
neutralises the text. A diagnosis brings blocks of its own (`diagnosis.FigureTable`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from memaudit.report.diagnosis import Cell, Column, FigureTable, Measure, Unit
from memaudit.report.wording import MISSING, number, percent, points


@dataclass(frozen=True)
class Head(Column):
    """Column of a report's own table; figures, which have a unit, stand on the right."""

    unit: Unit = "text"
    about: str = ""
    """Meaning, for the legend below the table; empty if the name says it."""
    priority: int = 0
    """0 if every terminal shows the column; a narrow one leaves out the highest numbers."""
    style: Literal["", "id", "prose", "verdict"] = ""


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
    if isinstance(cell, Measure):
        return _measure(cell, unit)
    return _figure(float(cell), unit)


def _measure(measure: Measure, unit: Unit) -> str:
    if measure.value is None:
        return MISSING
    value = _figure(measure.value, unit)
    if measure.low is None and measure.high is None:
        return value
    low, high = (
        MISSING if end is None else _figure(end, unit).removesuffix(" %")
        for end in (measure.low, measure.high)
    )
    return f"{value} ({low} to {high})"


def _figure(value: float, unit: Unit) -> str:
    return _WRITTEN[unit](value) if math.isfinite(value) else MISSING


def _plain(value: float) -> str:
    """Format with three significant digits, with an exponent only where needed.

    Whole numbers stay bare. Trailing zeros count: 0.470 is as precise as 0.472.
    """
    if value == round(value) and abs(value) < 1e7:
        return f"{value:,.0f}"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def _rounded(share: float) -> float:
    """Remove floating-point residue: 1 - 1e-16 becomes 1."""
    return round(share, 12)


_WRITTEN: dict[Unit, Callable[[float], str]] = {
    "text": _plain,
    "count": lambda value: f"{value:,.0f}",
    "share": lambda value: percent(_rounded(value)),
    "points": lambda value: points(_rounded(value)),
    "nats": lambda value: number(value, 3),
    "number": _plain,
    "p": lambda value: f"{value:.2g}",
}
