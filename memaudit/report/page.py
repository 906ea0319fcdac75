"""report.html: the whole result as one self-contained page.

Knows the template and its values. Every string is neutralised, then escaped by the template; only
the plots, which hold no string from outside, enter as markup. The page's content security policy
forbids all external content, and allows its one script by hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from memaudit.report.blocks import Head, notes, table_cells
from memaudit.report.charts import (
    Card,
    group_cards,
    matched_card,
    rates_card,
    sampling_cards,
    training_cards,
)
from memaudit.report.diagnosis import Column, Diagnosis, DiagnosisRecord, FigureTable
from memaudit.report.model import Report
from memaudit.report.plots import line_plot
from memaudit.report.provenance import full_provenance, settings
from memaudit.report.reading import verdict
from memaudit.report.sections import (
    frameworks,
    gates,
    ladder,
    leaks,
    origins,
    revealed,
    worst_windows,
)
from memaudit.report.wording import neutral, shorten

MOST_WINDOWS = 1_000
"""Windows in the page: a browser would take minutes to lay out a hundred thousand."""
_MOST_TEXTS = 20
_MOST_ROWS = 200
"""Rows of any other table; JSON has all."""
_LONGEST_STRING = 4_000
_MOST_NOTES = 200
_FILES = resources.files("memaudit.report").joinpath("html")


def to_html(
    report: Report, windows: pd.DataFrame, diagnoses: tuple[DiagnosisRecord, ...] = ()
) -> str:
    """Return the page. The same run gives the same bytes. Shows audited text only if revealed."""
    script = _read("sort.js")
    word, sentence = verdict(report)
    (worst,) = worst_windows(report, windows, MOST_WINDOWS, page=True)
    return fill(
        "page.html.jinja",
        report=report,
        word=word,
        sentence=sentence,
        notes=report.notes[:_MOST_NOTES],
        answers=[*leaks(report), *gates(report)],
        first=[rates_card(report), matched_card(report, windows)],
        tables=[ladder(report), *origins(report)],
        cards=[*sampling_cards(report, windows), *group_cards(report, windows)],
        training=list(training_cards(report)),
        diagnoses=list(map(_diagnosed, diagnoses)),
        windows=worst,
        revealed=revealed(report, windows, _MOST_TEXTS),
        facts=full_provenance(report),
        settings=settings(report),
        frameworks=frameworks(report),
        rows=lambda table: table_cells(table)[: MOST_WINDOWS if table is worst else _MOST_ROWS],
        legend=lambda table: notes(table, table.columns),
        kind=_kind,
        script=Markup(script),
        script_hash=Markup(_hash(script)),
        svg=Markup,
    )


def fill(template: str, **values: Any) -> str:
    """Return a template filled with values, each neutralised and escaped, in the page's style."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    style = Markup(_read("style.css"))
    return environment.from_string(_read(template)).render(style=style, **values)


class _Diagnosed(NamedTuple):
    """One diagnosis as sections of the page."""

    record: DiagnosisRecord
    cards: list[Card]
    """Plots, each with its figures."""
    tables: list[FigureTable]
    """Tables without a plot."""


def _diagnosed(record: DiagnosisRecord) -> _Diagnosed:
    diagnosis = record.diagnosis
    plotted = {plot.name for plot in diagnosis.plots}
    tables = [table for table in diagnosis.tables if table.name not in plotted]
    return _Diagnosed(record, list(_plotted(diagnosis)), [_named(diagnosis, t) for t in tables])


def _plotted(diagnosis: Diagnosis) -> Iterator[Card]:
    tables = {table.name: table for table in diagnosis.tables}
    for plot in diagnosis.plots:
        figures = tables.get(plot.name)
        columns, rows = (figures.columns, figures.rows) if figures else ((), ())
        table = _named(diagnosis, FigureTable(plot.name, plot.title, plot.says, columns, rows))
        yield Card(table, line_plot(table.name, plot.lines, plot.x, plot.y))


def _named(diagnosis: Diagnosis, table: FigureTable) -> FigureTable:
    """Return the table with a name that is unique on the page."""
    return replace(table, name=f"{diagnosis.name}-{table.name}")


def _kind(column: Column) -> str:
    """Return the class of a column's cells; empty for plain text."""
    if column.unit != "text":
        return "number"
    return column.style if isinstance(column, Head) else ""


def _read(name: str) -> str:
    return _FILES.joinpath(name).read_text("utf-8")


def _hash(script: str) -> str:
    """Return the name of a script in a content security policy."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _harmless(value: Any) -> Any:
    """Neutralise and shorten a string before the template escapes it."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return shorten(neutral(value), _LONGEST_STRING)
    return value
