"""How the findings of `signals` write a figure with its interval.

Knows measures and strings only.
"""

from __future__ import annotations

from memaudit.report.diagnosis import Measure
from memaudit.report.wording import percent


def share_said(one: Measure) -> str:
    """``47.4 % (40.1 to 55.0)``; an interval that starts at 0 is written as its upper bound."""
    if one.value is None:
        return "n/a"
    if one.low is None or one.high is None:
        return percent(one.value)
    if one.low <= 0 and one.high < 1:
        return f"{percent(one.value)} (at most {percent(one.high)})"
    low, high = (percent(end).removesuffix(" %") for end in (one.low, one.high))
    return f"{percent(one.value)} ({low} to {high})"


def number_said(one: Measure, digits: int = 2, unit: str = "") -> str:
    """``0.88 (0.85 to 0.90)``, the unit after the value."""
    if one.value is None:
        return "n/a"
    value = f"{one.value:.{digits}f}{f' {unit}' if unit else ''}"
    if one.low is None or one.high is None:
        return value
    return f"{value} ({one.low:.{digits}f} to {one.high:.{digits}f})"
