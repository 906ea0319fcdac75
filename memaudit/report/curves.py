"""What a plot is made of: lines and axes as plain numbers and short names.

Knows nothing of how they are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from memaudit.score.estimate import Estimate


@dataclass(frozen=True)
class Line:
    """One curve. Where a number is NaN it has a gap."""

    name: str
    """What the legend says; the same for lines that belong together."""
    colour: str
    """An attack, or ``series-1`` to ``series-6``: which of the page's colours it has."""
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    """Lower ends of the intervals of ``y``; None for a curve without."""
    high: Sequence[float] | None = None
    dash: str = "-"
    """As matplotlib writes it: ``-``, ``--``, ``:``, ``-.``; none if empty."""
    marker: str = ""
    """``o`` and the like at every point; none if empty."""
    step: bool = False
    """Whether the value holds from a point to the next one."""

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
    """Where numbers stand; where matplotlib thinks best if None."""
    names: Sequence[str] | None = None
    """What stands there instead of the numbers."""
    low: float | None = None
    high: float | None = None
