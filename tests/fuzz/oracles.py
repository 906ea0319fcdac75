"""What must not be in anything that memaudit shows, whatever it was given."""

from __future__ import annotations

import re

SECRET = "SECRET"
"""Stands in every text of the seeds: no message may hold it."""
_COMMAND = re.compile(r"##\w*\[")
_COMMAND_LINE = re.compile(r"^\s*::", re.MULTILINE)


class Broken(AssertionError):
    """Something was shown that must not be."""


def check_harmless(shown: str, what: str, *, commands: bool = False) -> None:
    """Nothing that a terminal or a CI system would act on.

    commands: the output is made of GitHub's workflow commands.
    """
    lines = shown.replace("\r\n", "\n").split("\n")
    for line in lines:
        if not all(_is_harmless(sign) for sign in line):
            raise Broken(f"{what}: a control character is shown")
    if _COMMAND.search(shown):
        raise Broken(f"{what}: a command that CI systems act on is shown")
    if commands:
        if not all(
            re.match(r"::(notice|warning|error) title=[^:,]*::", one) for one in lines if one
        ):
            raise Broken(f"{what}: a line that is no annotation of memaudit's")
    elif _COMMAND_LINE.search(shown):
        raise Broken(f"{what}: a line starts as a workflow command does")


def _is_harmless(sign: str) -> bool:
    return sign.isprintable() or sign in "\u200c\u200d" or (sign.isspace() and ord(sign) > 0x9F)


def check_message(message: str, what: str) -> None:
    """One line or two, of bounded length, without audited text."""
    if SECRET in message:
        raise Broken(f"{what}: the message quotes the text")
    if len(message) > 20_000:
        raise Broken(f"{what}: the message has {len(message)} characters")
