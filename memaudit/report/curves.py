"""Lines and axes of a plot, as plain numbers and short names.

Knows nothing of how they are plotted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from memaudit.score.estimate import Estimate


@dataclass(frozen=True)
class Line:
    """One curve, with a gap at every NaN."""

    name: str
    """Name in the legend; shared by lines that belong together."""
    colour: str
    """Name of a colour of the page: an attack, or ``series-1`` to ``series-6``."""
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    """Lower ends of the intervals of ``y``; None without intervals."""
    high: Sequence[float] | None = None
    dash: str = "-"
    """Matplotlib line style: ``-``, ``--``, ``:``, ``-.``; empty for none."""
    marker: str = ""
    """Matplotlib marker at every point, such as ``o``; empty for none."""
    step: bool = False
    """True if a value holds up to the next point."""

    @classmethod
    def of(
        cls,
        name: str,
        colour: str,
        x: Sequence[float],
        estimates: Sequence[Estimate | None],
        *,
        dash: str = "-",
        marker: str = "",
    ) -> Line:
        """Return the curve of some figures and their intervals, with a gap for each missing one."""

        def side(numbers: Sequence[float | None]) -> list[float]:
            return [math.nan if number is None else number for number in numbers]

        return cls(
            name,
            colour,
            x,
            side([None if one is None else one.value for one in estimates]),
            side([None if one is None else one.low for one in estimates]),
            side([None if one is None else one.high for one in estimates]),
            dash,
            marker,
        )


@dataclass(frozen=True)
class Axis:
    """One axis."""

    label: str
    logarithmic: bool = False
    ticks: Sequence[float] | None = None
    """Positions of tick labels; chosen by matplotlib if None."""
    names: Sequence[str] | None = None
    """Tick labels to show instead of the numbers."""
    low: float | None = None
    high: float | None = None
