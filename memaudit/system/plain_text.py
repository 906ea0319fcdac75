"""Untrusted text, made harmless and short: for messages, reports and tables.

Knows terminals and the logs of CI systems. Imports nothing heavy: an error message has to appear
at once.
"""

from __future__ import annotations

import re
import unicodedata

_JOINERS = "\u200c\u200d"
"""Format characters that Persian, Indic scripts and emoji need; they move no cursor."""

_COMMAND = re.compile(r"##(?=\w*\[)")
"""Starts of CI commands anywhere in a line of a log: ``##[``, ``##vso[``."""
_COMMAND_LINE = re.compile(r"^(\s*):(?=:)", re.MULTILINE)
"""GitHub's commands at the start of a line: ``::error::``."""


def neutral(text: str) -> str:
    """Return untrusted text on one line, with nothing that a terminal would act on.

    Control and format characters (escape sequences, line ends, text direction), lone surrogates
    and unassigned code points become visible escapes such as ``\\x1b``, and so do the commands
    of CI systems that read the log.
    """
    if not text.isprintable():
        text = "".join(map(_visible, text))
    return _COMMAND.sub(r"\\x23#", text) if "##" in text else text


def no_commands(text: str) -> str:
    """Escape lines that start like one of GitHub's workflow commands."""
    return _COMMAND_LINE.sub(r"\1\\x3a", text) if "::" in text else text


def shorten(text: str, length: int) -> str:
    """Cut text to ``length`` characters, the last one an ellipsis if anything was cut."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _visible(character: str) -> str:
    harmless = (
        character.isprintable()
        or character in _JOINERS
        or unicodedata.category(character) == "Zs"  # spaces of other widths
    )
    return character if harmless else character.encode("unicode_escape").decode("ascii")
