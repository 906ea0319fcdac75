"""GitHub annotations: one workflow command for each gate, which a step prints to its log.

Knows workflow commands and their escapes. A step shows ten annotations of a kind, so gates get
one each, and windows none.
"""

from __future__ import annotations

from memaudit.report.reading import gate_name, verdict
from memaudit.report.report_json import Document
from memaudit.report.wording import neutral

_COMMANDS = {"pass": "notice", "inconclusive": "warning", "fail": "error"}


def to_annotations(document: Document) -> str:
    """A line for each gate; one that says so where there is none."""
    lines = [
        _command(
            _COMMANDS[gate["verdict"]], f"{gate_name(gate)}: {gate['verdict']}", gate["reason"]
        )
        for gate in document["gates"]
    ]
    if not lines:
        lines = [_command("notice", "no gate", verdict(document)[1])]
    return "".join(f"{line}\n" for line in lines)


def _command(command: str, title: str, message: str) -> str:
    named = _escape(f"memaudit {title}").replace(":", "%3A").replace(",", "%2C")
    return f"::{command} title={named}::{_escape(message)}"


def _escape(text: str) -> str:
    """Text that ends neither the command nor its line: ``neutral`` leaves no line end in it."""
    return neutral(text).replace("%", "%25")
