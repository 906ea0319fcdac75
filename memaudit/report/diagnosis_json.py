"""diagnose-<name>.json: write a diagnosis, and read it back as untrusted input.

The document has the form of `DiagnosisRecord`, with null for numbers that are not finite.
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
    Measure,
    Plot,
)
from memaudit.report.plots import COLOURS, DASHES, MARKERS
from memaudit.report.wording import json_text

SCHEMA_VERSION = 1
MOST_CELLS = 100_000
"""Limit over all tables of a diagnosis; the next two are over all its plots."""
MOST_LINES = 200
MOST_POINTS = 50_000
_FARTHEST = 1e12
"""Largest absolute value in a plot."""
_LONGEST_LABEL = 120
_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
_LABEL = re.compile(rf"[ -~]{{0,{_LONGEST_LABEL}}}")
"""Labels of a plot are rendered, so only characters that every font has."""
_NUMBERS = ("x", "y", "low", "high")


def diagnosis_text(record: DiagnosisRecord) -> str:
    """Return the document as text: ASCII, indented, ending in a line end."""
    head = {"schema_version": SCHEMA_VERSION, "tool": "memaudit"}
    return json_text(head | _finite(asdict(record)))


def parse_diagnosis(document: Any) -> DiagnosisRecord:
    """Validate a document. Raises ValueError, quoting none of it, where it is not a diagnosis."""
    if not isinstance(document, dict) or document.get("tool") != "memaudit":
        raise ValueError("is not a memaudit diagnosis")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ValueError("another version of memaudit wrote it")
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
    """Return the validator of the form: no unknown keys, no numbers as text."""
    for part in (DiagnosisRecord, Diagnosis, Plot, FigureTable, Column, Measure, Line, Axis):
        with_config(ConfigDict(extra="forbid", strict=False))(part)
    return TypeAdapter(DiagnosisRecord)


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite by None, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _with_gaps(body: dict[str, Any]) -> dict[str, Any]:
    """Restore NaN for the gaps of lines."""
    for diagnosis in _dicts([body.get("diagnosis")]):
        for plot in _dicts(diagnosis.get("plots")):
            for line in _dicts(plot.get("lines")):
                for name in _NUMBERS:
                    if isinstance(line.get(name), list):
                        line[name] = [math.nan if y is None else y for y in line[name]]
    return body


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects of a list; none where it is not a list."""
    yield from (item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def _faults(diagnosis: Diagnosis) -> Iterator[str]:
    """Describe content that has the right form but that no diagnosis writes."""
    tables, plots = diagnosis.tables, diagnosis.plots
    for parts in (tables, plots):
        names = [part.name for part in parts]
        if len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
            yield "tables or plots lack names of their own"
    if sum(len(table.rows) * len(table.columns) for table in tables) > MOST_CELLS:
        yield f"its tables have more than {MOST_CELLS:,} cells"
    for table in tables:
        if any(len(row) != len(table.columns) for row in table.rows):
            yield f"table {table.name} has rows of another width than its head"
    lines = [line for plot in plots for line in plot.lines]
    if len(lines) > MOST_LINES or sum(len(line.x) for line in lines) > MOST_POINTS:
        yield "its plots have too many lines or points"
    for plot in plots:
        if not all(map(_is_axis, (plot.x, plot.y))) or not all(map(_is_line, plot.lines)):
            yield f"plot {plot.name} holds values that cannot be plotted"


def _is_axis(axis: Axis) -> bool:
    ticks, names = axis.ticks or (), axis.names
    ends = [end for end in (axis.low, axis.high) if end is not None]
    labels = (axis.label, *(names or ()))
    return (
        all(map(_LABEL.fullmatch, labels))
        and all(abs(place) <= _FARTHEST for place in (*ticks, *ends))
        and (not axis.logarithmic or all(place > 0 for place in (*ticks, *ends)))
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
        and all(math.isnan(value) or abs(value) <= _FARTHEST for row in rows for value in row)
    )
