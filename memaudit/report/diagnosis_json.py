"""diagnose-<name>.json: everything one diagnosis found, and read back as if a stranger wrote it.

Knows the document's form, which is that of `DiagnosisRecord`. What is no finite number is null.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from memaudit.report.curves import Axis, Line
from memaudit.report.diagnosis import (
    Column,
    Diagnosis,
    DiagnosisRecord,
    FigureTable,
    Plot,
)
from memaudit.report.plots import COLOURS, DASHES, MARKERS
from memaudit.report.wording import json_text
from memaudit.score.estimate import Estimate

SCHEMA_VERSION = 1
MOST_CELLS = 100_000
"""In all tables of a diagnosis together, as in the next two."""
MOST_LINES = 200
MOST_POINTS = 50_000
_FARTHEST = 1e12
"""No figure of a plot lies beyond."""
_LONGEST_LABEL = 120
_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
_LABEL = re.compile(rf"[ -~]{{0,{_LONGEST_LABEL}}}")
"""Of a plot, whose letters are drawn: what every font has."""
_NUMBERS = ("x", "y", "low", "high")


def diagnosis_text(record: DiagnosisRecord) -> str:
    """The document as text: ASCII, indented, and ending in a line end."""
    head = {"schema_version": SCHEMA_VERSION, "tool": "memaudit"}
    return json_text(head | _finite(asdict(record)))


def read_diagnosis(document: Any) -> DiagnosisRecord:
    """A document that was read back. Raises ValueError, quoting nothing, where it is none."""
    if not isinstance(document, dict) or document.get("tool") != "memaudit":
        raise ValueError("is no diagnosis of memaudit")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ValueError("another memaudit wrote it")
    body = {key: value for key, value in document.items() if key not in ("schema_version", "tool")}
    try:
        record = _adapter().validate_python(_with_gaps(body))
    except ValidationError as error:
        place = ".".join(map(str, error.errors(include_input=False)[0]["loc"]))
        raise ValueError(f"{place[:100]} is not as memaudit writes it") from None
    for fault in _faults(record.diagnosis):
        raise ValueError(fault)
    return record


@cache
def _adapter() -> TypeAdapter[DiagnosisRecord]:
    """What checks a document's form: no key that is unknown, no number that is text."""
    for part in (DiagnosisRecord, Diagnosis, Plot, FigureTable, Column, Estimate, Line, Axis):
        with_config(ConfigDict(extra="forbid", strict=False))(part)
    return TypeAdapter(DiagnosisRecord)


def _finite(value: Any) -> Any:
    """Whatever it is, with None for what is no finite number."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value


def _with_gaps(body: dict[str, Any]) -> dict[str, Any]:
    """NaN again for the gaps of lines."""
    for found in _dicts([body.get("diagnosis")]):
        for plot in _dicts(found.get("plots")):
            for line in _dicts(plot.get("lines")):
                for name in _NUMBERS:
                    if isinstance(line.get(name), list):
                        line[name] = [math.nan if one is None else one for one in line[name]]
    return body


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """The objects of a list; none where it is no list."""
    yield from (one for one in value if isinstance(one, dict)) if isinstance(value, list) else ()


def _faults(diagnosis: Diagnosis) -> Iterator[str]:
    """What is of the right form, and what no diagnosis holds."""
    tables, plots = diagnosis.tables, diagnosis.plots
    for parts in (tables, plots):
        names = [part.name for part in parts]
        if len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
            yield "a table or plot has no name of its own"
    if sum(len(table.rows) * len(table.columns) for table in tables) > MOST_CELLS:
        yield f"its tables have more than {MOST_CELLS:,} cells"
    for table in tables:
        if any(len(row) != len(table.columns) for row in table.rows):
            yield f"table {table.name} has rows that are not as wide as its head"
    lines = [line for plot in plots for line in plot.lines]
    if len(lines) > MOST_LINES or sum(len(line.x) for line in lines) > MOST_POINTS:
        yield "its plots have more lines or points than any can show"
    for plot in plots:
        if not all(map(_is_axis, (plot.x, plot.y))) or not all(map(_is_line, plot.lines)):
            yield f"plot {plot.name} holds what cannot be drawn"


def _is_axis(axis: Axis) -> bool:
    ticks, names = axis.ticks or (), axis.names
    ends = [end for end in (axis.low, axis.high) if end is not None]
    labels = (axis.label, *(names or ()))
    return (
        all(map(_LABEL.fullmatch, labels))
        and all(abs(one) <= _FARTHEST for one in (*ticks, *ends))
        and (not axis.logarithmic or all(one > 0 for one in (*ticks, *ends)))
        and len(ticks) <= 100
        and (names is None or len(names) == len(ticks))
        and (len(ends) < 2 or ends[0] < ends[1])
    )


def _is_line(line: Line) -> bool:
    rows: list[Sequence[float]] = [line.x, line.y]
    rows += [row for row in (line.low, line.high) if row is not None]
    return (
        bool(_LABEL.fullmatch(line.name))
        and line.colour in COLOURS
        and line.dash in DASHES
        and line.marker in MARKERS
        and (line.low is None) == (line.high is None)
        and all(len(row) == len(line.x) for row in rows)
        and all(math.isnan(one) or abs(one) <= _FARTHEST for row in rows for one in row)
    )
