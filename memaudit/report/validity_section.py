"""Section ``validity`` of report.json: the counts that decide whether the run is void.

Knows results and the form of the section. Writes no ids or text of windows.
"""

from __future__ import annotations

from typing import Any

from memaudit.gate.validity import Validity
from memaudit.score.validity import Continuations, Reading


def validity_section(validity: Validity | None) -> dict[str, Any] | None:
    """Return the section; None if nothing was counted."""
    if validity is None:
        return None
    text, templates = validity.text, validity.templates
    continuations = validity.continuations
    return {
        "records": validity.records,
        "records_used": validity.used,
        "windows": validity.windows,
        "misread_windows": int(validity.misread.sum()),
        "chats": validity.chats,
        "changed_chats": validity.changed_chats,
        "without_text": {
            "any": int(text.any.sum()),
            "control_or_blank": int(text.control.sum()),
            "repeated": int(text.repeated.sum()),
            "unknown": int(text.unknown.sum()),
            "special": int(text.special.sum()),
        },
        "unknown_tokens": text.unknown_tokens,
        "template": {
            "any": int(templates.any.sum()),
            "suffix": int(templates.suffix.sum()),
            "prefix": int(templates.prefix.sum()),
            "in_controls": int(templates.in_controls.sum()),
        },
        "extracted": validity.extracted,
        "reading": {part: _reading(reading) for part, reading in validity.readings.items()},
        "continuations": None if continuations is None else _continuations(continuations),
    }


def _reading(reading: Reading) -> dict[str, float]:
    figures = {
        "nll": reading.nll,
        "frequencies_nll": reading.frequencies,
        "uniform_nll": reading.uniform,
        "limit": reading.limit,
    }
    return {name: round(value, 2) for name, value in figures.items()}


def _continuations(counts: Continuations) -> dict[str, int]:
    return {"windows": counts.windows, "ended": counts.ended, "same": counts.alike}
