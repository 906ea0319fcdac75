"""What a plot is made of: lines and axes as plain numbers and short names.

Knows nothing of how they are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
