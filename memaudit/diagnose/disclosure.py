"""How much a diagnosis writes without ``--reveal``: large enough groups, and figures of few digits.

Knows cluster numbers and the form of a diagnosis. Knows no model and no meaning of a figure.

Whoever has the model can compute any figure of a guessed text. Figures of a single window at every
position therefore give its text back, token by token; so do those of a small group to whoever knows
the rest of it. A group counts only if it is spread over enough near-duplicate clusters, positions
are put together, and three digits of the mean of ten windows are two digits of one of them, which
``samples.csv`` has too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from memaudit.report.curves import Line
from memaudit.report.diagnosis import Cell, Column, Diagnosis, FigureTable, Plot
from memaudit.report.wording import count
from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_CLUSTERS
from memaudit.score.stats import Ints

LARGEST_SHARE = 0.25
"""Share of a group's windows above which one cluster dominates it."""
STRETCH = 10
"""Positions that are put together, at least: fewer tell one token after the other."""
DIGITS = 3
"""Significant digits of every figure that is no count."""
ALL_WITHHELD = "Every group of windows is too small for figures of it; the notes name them."
_DECIMAL = re.compile(r"(?<![\w.,])(?<!arXiv )\d[\d,]*\.\d+(?!\w|\.\d)")


@dataclass(frozen=True, eq=False)
class Disclosure:
    """Which groups of windows a diagnosis may write figures of; remembers those it may not."""

    reveal: bool = False
    """Whether everything may be written, as ``--reveal`` allows."""
    withheld: dict[str, str] = field(default_factory=dict)
    """Group to its counts and the reason."""
    _unnamed: list[str] = field(default_factory=list)
    _asked: list[int] = field(default_factory=list)
    """Windows of each group that was asked for."""

    def admits(self, group: str, clusters: Ints) -> bool:
        """Return whether figures of windows (N,) in ``clusters`` may be written.

        A group that is refused is named in the notes. Without windows there is nothing to refuse.
        """
        reason = self._reason_against(clusters)
        if reason is not None:
            self.withheld[group] = reason
        return reason is None

    def admits_all(self, groups: Mapping[str, Ints]) -> bool:
        """Return whether all of these groups may have figures; each that may not is named."""
        return not [name for name, clusters in groups.items() if not self.admits(name, clusters)]

    def covers(self, clusters: Ints) -> bool:
        """Return the same for windows that have no name of their own, as a row of a table."""
        reason = self._reason_against(clusters)
        if reason is not None:
            self._unnamed.append(reason)
        return reason is None

    def apply(self, diagnosis: Diagnosis) -> Diagnosis:
        """Return a diagnosis as it may be written: rounded, with a note on what is withheld.

        Raises RuntimeError for one with figures that never asked which groups may have them.
        """
        if self.reveal:
            return diagnosis
        if not self._asked and (diagnosis.tables or diagnosis.plots):
            raise RuntimeError(f"diagnosis {diagnosis.name} asked for no group of windows")
        return replace(
            diagnosis,
            findings=[_round_text(finding) for finding in diagnosis.findings],
            notes=[*map(_round_text, diagnosis.notes), *self._notes()],
            tables=[_round_table(table) for table in diagnosis.tables],
            plots=[_round_plot(plot) for plot in diagnosis.plots],
        )

    def _reason_against(self, clusters: Ints) -> str | None:
        self._asked.append(len(clusters))
        return None if self.reveal else _reason_against(clusters)

    def _notes(self) -> list[str]:
        rule = (
            f"fewer than {LEAST_CLUSTERS} near-duplicate clusters, or of which one cluster has "
            f"more than {LARGEST_SHARE:.0%}"
        )
        notes = [f"Figures have at most {DIGITS} digits; --reveal writes all."]
        if self.withheld:
            named = "; ".join(f"{group}: {reason}" for group, reason in self.withheld.items())
            notes.append(
                f"Withheld, because figures of groups in {rule}, can give text away ({named}). "
                "--reveal writes them."
            )
        if self._unnamed:
            notes.append(f"Figures of windows in {rule}, are left out (n/a). --reveal writes them.")
        return notes


def _reason_against(clusters: Ints) -> str | None:
    """Return why a group is too small, with its counts; None if it is not, or has no windows."""
    sizes = np.unique(clusters, return_counts=True)[1]
    if not len(sizes):
        return None
    counts = f"{count(len(clusters), 'window')} in {count(len(sizes), 'cluster')}"
    if len(sizes) < LEAST_CLUSTERS:
        return counts
    if sizes.max() > LARGEST_SHARE * len(clusters):
        return f"{counts}, {int(sizes.max()):,} of them in one"
    return None


def round_digits(value: float) -> float:
    """Round a figure to `DIGITS` significant digits; NaN and infinity stay."""
    return float(f"{value:.{DIGITS}g}")


def _round_cell(cell: Cell, column: Column) -> Cell:
    """Round a cell; counts, whole numbers beside text and text itself stay."""
    if cell is None or isinstance(cell, str) or column.unit == "count":
        return cell
    if isinstance(cell, Estimate):
        ends = (cell.value, cell.low, cell.high)
        return Estimate(*(None if end is None else round_digits(end) for end in ends))
    return cell if column.unit == "text" and isinstance(cell, int) else round_digits(cell)


def _round_table(table: FigureTable) -> FigureTable:
    rows = [
        [_round_cell(cell, column) for cell, column in zip(row, table.columns, strict=True)]
        for row in table.rows
    ]
    return replace(table, says=_round_text(table.says), rows=rows)


def _round_plot(plot: Plot) -> Plot:
    return replace(
        plot, says=_round_text(plot.says), lines=[_round_line(one) for one in plot.lines]
    )


def _round_line(line: Line) -> Line:
    """Round a curve; whole numbers of its x axis, as positions and blocks, stay."""

    def rounded(values: Sequence[float] | None) -> list[float] | None:
        return None if values is None else [round_digits(value) for value in values]

    x = [at if float(at).is_integer() else round_digits(at) for at in line.x]
    y = [round_digits(value) for value in line.y]
    return replace(line, x=x, y=y, low=rounded(line.low), high=rounded(line.high))


def _round_text(text: str) -> str:
    """Round the decimal numbers of a sentence; whole ones are counts."""
    return _DECIMAL.sub(lambda match: _round_number(match.group()), text)


def _round_number(number: str) -> str:
    plain = number.replace(",", "")
    if len(plain.replace(".", "").lstrip("0")) <= DIGITS:
        return number
    value = round_digits(float(plain))
    decimals = DIGITS - len(f"{value:.0f}")
    if value < 1:
        return f"{value:.9f}".rstrip("0")
    return f"{value:,.{max(0, decimals)}f}"
