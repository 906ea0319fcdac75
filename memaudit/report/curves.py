"""Lines and axes of a plot, as plain numbers and short names.

Knows nothing of how they are plotted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
