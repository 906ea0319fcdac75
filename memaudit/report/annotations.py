"""GitHub annotations: one workflow command for each gate, to print in the log of a step.

Knows workflow commands and their escapes. A step shows ten annotations of a kind, so each gate
gets one and windows get none.
"""

from __future__ import annotations

from memaudit.report.reading import gate_name, verdict
from memaudit.report.report_json import Document
from memaudit.report.wording import neutral

_COMMANDS = {"pass": "notice", "inconclusive": "warning", "fail": "error"}


def to_annotations(document: Document) -> str:
    """Return a line for each gate, or one line that says no gate was set."""
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
    escaped = _escape(f"memaudit {title}").replace(":", "%3A").replace(",", "%2C")
    return f"::{command} title={escaped}::{_escape(message)}"


def _escape(text: str) -> str:
    """Escape text so that it cannot end the command; ``neutral`` removes line ends."""
    return neutral(text).replace("%", "%25")
