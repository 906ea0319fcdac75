"""Cells of a diagnosis' tables as text, the same in every format.

Knows units and figures. Knows nothing of formats: each format neutralises the text.
"""

from __future__ import annotations

from memaudit.report.diagnosis import Cell, FigureTable
from memaudit.score.estimate import MISSING, Estimate, Unit, figure_text


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
