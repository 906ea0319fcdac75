"""How figures and untrusted strings are written, the same in every format.

Knows numbers and strings. Knows nothing of results, tables or files.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata

from memaudit.score.estimate import hundredths, percent, points
from memaudit.score.stats import Interval

SCHEMA_VERSION = 2
"""Of ``samples.csv`` and ``report.json``: raised when a reader of the old form would break."""

LIMITS = (
    "The rates are a lower bound: what these attacks did not extract, others may.",
    "The attacker is white-box, and knows the prefix of every window and text like the data.",
    "This is no finding of anonymity, nor of compliance with any law or policy.",
)
"""What no figure of a report may be taken for."""

_JOINERS = "\u200c\u200d"
"""Format characters that Persian, Indic scripts and emoji need, and that move no cursor."""


_COMMAND = re.compile(r"##(?=\w*\[)")
"""What CI systems take for a command wherever in a line of a log it stands: ``##[``, ``##vso[``."""
_COMMAND_LINE = re.compile(r"^(\s*):(?=:)", re.MULTILINE)
"""And what GitHub does at the start of a line: ``::error::``."""


def neutral(text: str) -> str:
    """Untrusted text on one line, with nothing in it that a terminal would act on.

    Control and format characters (escape sequences, line ends, text direction), halves of
    surrogate pairs and code points without a meaning become visible escapes such as ``\\x1b``;
    so does what a CI system that reads the log would act on.
    """
    if not text.isprintable():
        text = "".join(map(_visible, text))
    return _COMMAND.sub(r"\\x23#", text) if "##" in text else text


def no_commands(text: str) -> str:
    """Lines of text, none of which starts as one of GitHub's workflow commands does."""
    return _COMMAND_LINE.sub(r"\1\\x3a", text) if "::" in text else text


def json_text(document: object, indent: int | None = 2) -> str:
    """A document as JSON in ASCII with a line end, harmless in a CI system's log.

    Nothing in it starts a line but what JSON itself consists of.
    """
    text = json.dumps(document, indent=indent, allow_nan=False)
    return text.replace("##", "#\\u0023") + "\n"  # it can only stand in a string


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters, the last one an ellipsis where something was cut off."""
    return text if len(text) <= length else text[: length - 1] + "…"


def count(number: int, what: str) -> str:
    """A number and its noun: ``1 window``, ``1,305 windows``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def level(share: float) -> str:
    """A fraction that someone chose, such as a confidence: ``95 %``."""
    return f"{100 * share:.6g} %"


def gate_label(name: str, threshold: float | None) -> str:
    """A gate and what it allows: ``max-exact 1 %``, ``max-lift 5 points``, ``max-new 3``."""
    if name in ("controls", "validity") or threshold is None or math.isnan(threshold):
        return name
    if name == "max-new":
        return f"{name} {threshold:.0f}"
    if name == "max-lift":
        return f"{name} {100 * threshold:.6g} points"
    return f"{name} {level(threshold)}"


def percent_interval(interval: Interval) -> str:
    """``10.6–14.2 %``; one that starts at 0 is written as its upper bound."""
    if interval.low <= 0 and interval.high < 1:
        return f"at most {percent(interval.high)}"
    return f"{hundredths(interval.low)}–{percent(interval.high)}"


def points_interval(interval: Interval) -> str:
    """``+1.2 to +3.4``, percentage points."""
    return f"{points(interval.low)} to {points(interval.high)}"


def p_value(p: float) -> str:
    """``p = 0.0005``, two digits."""
    return f"p = {p:.2g}"


def _visible(character: str) -> str:
    kept = (
        character.isprintable()
        or character in _JOINERS
        or unicodedata.category(character) == "Zs"  # spaces of other widths
    )
    return character if kept else character.encode("unicode_escape").decode("ascii")
