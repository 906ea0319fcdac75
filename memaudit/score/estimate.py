"""A figure with its interval, and the text of figures in sentences and cells.

Knows numbers and units. Knows nothing of what they measure or of how an interval is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from memaudit.score.stats import Interval

MISSING = "n/a"
Unit = Literal["text", "count", "share", "points", "nats", "number", "p"]
"""Format of a figure: whole numbers, shares in [0,1] as percentages, differences of shares in
signed percentage points, nats/token with three decimals, other numbers with three significant
digits, p-values with two."""


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its interval, all finite."""

    value: float | None
    """None without data."""
    low: float | None = None
    """None, as ``high``, where the data say nothing of this end."""
    high: float | None = None

    @classmethod
    def of(cls, value: float, interval: Interval | None = None) -> Estimate:
        """Return the estimate, with None for a number that is not finite."""
        ends = (math.nan, math.nan) if interval is None else interval
        return cls(*(end if math.isfinite(end) else None for end in (value, *ends)))

    def above(self, limit: float | None) -> bool:
        """Return True if the whole interval lies above a limit; False if either is unknown."""
        return self.low is not None and limit is not None and self.low > limit

    def below(self, limit: float | None) -> bool:
        """Return True if the whole interval lies below a limit; False if either is unknown."""
        return self.high is not None and limit is not None and self.high < limit

    def unless_point(self) -> Estimate:
        """Drop an interval of no width: resamples that all agree do not know the spread."""
        return Estimate(self.value) if self.low == self.high else self

    def wider(self, bound: Interval) -> Estimate:
        """Return the estimate with an interval that reaches as far as the bound on either side."""
        low = bound.low if self.low is None else min(self.low, bound.low)
        high = bound.high if self.high is None else max(self.high, bound.high)
        return Estimate(self.value, low, high)

    def cell(self, unit: Unit) -> str:
        """Return the text of a table's cell: ``0 % (0 to 0.63)``."""
        figure, low, high = self._texts(unit)
        return f"{figure} ({low} to {high})" if low else figure

    def parts(self, spec: str) -> tuple[str, str]:
        """Return the text of the figure and of its interval, empty if there is none.

        spec: a `Unit` or a number format such as ``+.3f``; then, after a blank, what is counted.
        ``45.0 %`` and ``27.0 to 60.0``; a share that may be 0 has ``at most 7.1 %``.
        """
        unit, _, counted = spec.partition(" ")
        figure, low, high = self._texts(unit or ".2f")
        if counted and self.value is not None:
            figure = f"{figure} {counted}"
        low_share, high_share = self.low or 0.0, 1.0 if self.high is None else self.high
        if unit == "share" and low and low_share <= 0 and high_share < 1:
            return figure, f"at most {high} %"
        return figure, f"{low} to {high}" if low else ""

    def __format__(self, spec: str) -> str:
        """Return the text in a sentence: ``0.78 (0.72 to 0.82)``; see `parts`."""
        figure, interval = self.parts(spec)
        return f"{figure} ({interval})" if interval else figure

    def _texts(self, spec: str) -> tuple[str, str, str]:
        """Return the text of the figure and of both ends, which are empty without an interval."""
        if self.value is None:
            return MISSING, "", ""
        figure = figure_text(self.value, spec)
        if self.low is None and self.high is None:
            return figure, "", ""
        low, high = (
            MISSING if end is None else figure_text(end, spec).removesuffix(" %")
            for end in (self.low, self.high)
        )
        return figure, low, high


def figure_text(value: float, spec: str) -> str:
    """Return the text of one figure in a `Unit` or in a number format such as ``+.3f``."""
    if not math.isfinite(value):
        return MISSING
    return _WRITERS[spec](value) if spec in _WRITERS else format(value, spec)


def percent(share: float) -> str:
    """Return a fraction in [0,1] as a percentage that reads 0 or 100 only if it is exactly that."""
    return MISSING if math.isnan(share) else f"{hundredths(share)} %"


def points(difference: float) -> str:
    """Return a difference of two fractions in percentage points, with its sign."""
    if math.isnan(difference):
        return MISSING
    if difference == 0:
        return "0"
    return f"{'-' if difference < 0 else '+'}{hundredths(abs(difference))}"


def number(value: float, digits: int = 2) -> str:
    """Return a plain figure; ``-`` if it is not finite."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def hundredths(share: float) -> str:
    """Return 100 x with one decimal, or enough for two digits of the distance to 0 or 100."""
    value = 100 * share
    distance = min(value, 100 - value)
    if distance <= 0:
        return f"{value:.0f}"
    decimals = 1 if distance >= 1 else 1 - math.floor(math.log10(distance))
    return f"{value:.{decimals}f}"


def _significant(value: float) -> str:
    """Return three significant digits; whole numbers bare, exponents only for extreme values.

    Zeros at the end count: 0.470 is known as well as 0.472.
    """
    if value == round(value) and abs(value) < 1e7:
        return f"{value:,.0f}"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def _rounded(share: float) -> float:
    """Round off the error of arithmetic: 1 - 1e-16 is 1."""
    return round(share, 12)


_WRITERS: dict[str, Callable[[float], str]] = {
    "text": _significant,
    "count": lambda value: f"{value:,.0f}",
    "share": lambda value: percent(_rounded(value)),
    "points": lambda value: points(_rounded(value)),
    "nats": lambda value: number(value, 3),
    "number": _significant,
    "p": lambda value: f"{value:.2g}",
}
