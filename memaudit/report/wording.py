"""Format figures and untrusted strings, the same in every report.

Knows numbers and strings. Knows nothing of results, tables or files.
"""

from __future__ import annotations

import json
import math

from memaudit.score.estimate import hundredths, percent, points
from memaudit.score.stats import Interval
from memaudit.system.plain_text import neutral as neutral
from memaudit.system.plain_text import no_commands as no_commands
from memaudit.system.plain_text import shorten as shorten

SCHEMA_VERSION = 4
"""Version of the tables and ``report.json``: raised when an old reader would break."""

LIMITS = (
    "The rates are lower bounds: other attacks may extract what these did not.",
    "The attacker has white-box access and knows the prefix of every window and similar text.",
    "This is not a finding of anonymity or of compliance with any law or policy.",
)
"""Limits on what a report's figures show."""


def json_text(document: object, indent: int | None = 2) -> str:
    """Return a document as JSON in ASCII with a line end, harmless in a CI system's log.

    Every line starts with JSON's own syntax.
    """
    text = json.dumps(document, indent=indent, allow_nan=False)
    return text.replace("##", "#\\u0023") + "\n"  # it only occurs in strings


def count(number: int, what: str) -> str:
    """Format a number and its noun: ``1 window``, ``1,305 windows``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def level(share: float) -> str:
    """Format a chosen fraction, such as a confidence: ``95 %``."""
    return f"{100 * share:.6g} %"


def gate_label(name: str, threshold: float | None, category: str = "") -> str:
    """Format a gate and its threshold: ``max-exact 1 %``, ``max-lift 5 points``, ``max-new 3``.

    category: for ``max-sensitive phone=0``.
    """
    if name in ("controls", "attacks", "validity") or threshold is None or math.isnan(threshold):
        return name
    if category and threshold is not None:
        return f"{name} {category}={threshold:.0f}"
    if name == "max-new":
        return f"{name} {threshold:.0f}"
    if name == "max-lift":
        return f"{name} {100 * threshold:.6g} points"
    return f"{name} {level(threshold)}"


def percent_interval(interval: Interval) -> str:
    """Format as ``10.6–14.2 %``; an interval from 0 as ``at most`` its upper bound."""
    if interval.low <= 0 and interval.high < 1:
        return f"at most {percent(interval.high)}"
    return f"{hundredths(interval.low)}–{percent(interval.high)}"


def points_interval(interval: Interval) -> str:
    """Format as ``+1.2 to +3.4``, in percentage points."""
    return f"{points(interval.low)} to {points(interval.high)}"


def p_value(p: float) -> str:
    """Format as ``p = 0.0005``, with two digits."""
    return f"p = {p:.2g}"
