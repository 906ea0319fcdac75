"""Limits on what a diagnosis writes without ``--reveal``: large groups and few digits.

Knows cluster numbers and the form of a diagnosis. Knows no model and no meaning of a figure.

With a copy of the model, anyone can compute any figure of a guessed text. Figures of a single
window at every position therefore reveal its text token by token; so do those of a small group to
anyone who knows the rest of the group. So a group counts only if it covers enough near-duplicate
clusters, positions are grouped, and figures are rounded: three digits of the mean of ten windows
are two digits of one window, and ``samples.csv`` has those too.
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
from memaudit.score.stats import Ints

FEWEST_CLUSTERS = 10
"""Near-duplicate clusters below which nothing is written about a group: a limit of privacy, apart
from those of statistics in `score.resample`."""
LARGEST_SHARE = 0.25
"""Share of a group's windows above which one cluster dominates it."""
STRETCH = 10
"""Fewest positions in a group; fewer would reveal single tokens."""
DIGITS = 3
"""Significant digits of every figure except counts."""
ALL_WITHHELD = "Every group of windows is too small for figures; the notes name the groups."
_DECIMAL = re.compile(r"(?<![\w.,])(?<!arXiv )\d[\d,]*\.\d+(?!\w|\.\d)")


@dataclass(frozen=True, eq=False)
class Disclosure:
    """Decides which groups of windows may have figures, and records the groups withheld."""

    reveal: bool = False
    """Allow everything, as ``--reveal`` does."""
    withheld: dict[str, str] = field(default_factory=dict)
    """Counts and reason by group."""
    _unnamed: list[str] = field(default_factory=list)
    """Reasons for withheld rows."""
    _asked: list[int] = field(default_factory=list)
    """Number of windows of each group checked."""

    def admits(self, group: str, clusters: Ints) -> bool:
        """Return whether figures of windows (N,) in ``clusters`` may be written.

        The notes name a refused group. An empty group is never refused.
        """
        reason = self._reason_against(clusters)
        if reason is not None:
            self.withheld[group] = reason
        return reason is None

    def admits_all(self, groups: Mapping[str, Ints]) -> bool:
        """Return whether all of these groups may have figures; the notes name each refused one."""
        return not [name for name, clusters in groups.items() if not self.admits(name, clusters)]

    def covers(self, clusters: Ints) -> bool:
        """Return whether windows without a group name, such as a table row, may have figures."""
        reason = self._reason_against(clusters)
        if reason is not None:
            self._unnamed.append(reason)
        return reason is None

    def apply(self, diagnosis: Diagnosis) -> Diagnosis:
        """Return the diagnosis as it may be written: rounded, with notes on withheld groups.

        Raises RuntimeError if it has figures but never checked a group.
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
            f"fewer than {FEWEST_CLUSTERS} near-duplicate clusters, or with more than "
            f"{LARGEST_SHARE:.0%} of their windows in one cluster"
        )
        notes = [f"Figures have at most {DIGITS} digits; --reveal writes all digits."]
        if self.withheld:
            named = "; ".join(f"{group}: {reason}" for group, reason in self.withheld.items())
            notes.append(
                f"Withheld, because figures of groups in {rule}, can reveal text ({named}). "
                "--reveal writes them."
            )
        if self._unnamed:
            notes.append(f"Figures of windows in {rule}, are left out (n/a). --reveal writes them.")
        return notes


def _reason_against(clusters: Ints) -> str | None:
    """Return the counts of a group that is too small; None if it is large enough or empty."""
    sizes = np.unique(clusters, return_counts=True)[1]
    if not len(sizes):
        return None
    counts = f"{count(len(clusters), 'window')} in {count(len(sizes), 'cluster')}"
    if len(sizes) < FEWEST_CLUSTERS:
        return counts
    if sizes.max() > LARGEST_SHARE * len(clusters):
        return f"{counts}, {int(sizes.max()):,} of them in one cluster"
    return None


def round_digits(value: float) -> float:
    """Round a figure to `DIGITS` significant digits; keep NaN and infinity."""
    return float(f"{value:.{DIGITS}g}")


def _round_cell(cell: Cell, column: Column) -> Cell:
    """Round a cell; keep counts, text, and whole numbers in text columns."""
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
        plot, says=_round_text(plot.says), lines=[_round_line(line) for line in plot.lines]
    )


def _round_line(line: Line) -> Line:
    """Round a curve; keep whole numbers on its x axis, such as positions and blocks."""

    def rounded(values: Sequence[float] | None) -> list[float] | None:
        return None if values is None else [round_digits(value) for value in values]

    x = [at if float(at).is_integer() else round_digits(at) for at in line.x]
    y = [round_digits(value) for value in line.y]
    return replace(line, x=x, y=y, low=rounded(line.low), high=rounded(line.high))


def _round_text(text: str) -> str:
    """Round the decimal numbers of a sentence; whole numbers are counts."""
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
