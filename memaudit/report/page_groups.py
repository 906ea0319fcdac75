"""Extraction by columns of the data: repetitions, kinds, any column passed through.

Knows the samples and how a column falls into groups. Knows nothing of markup. Names and values of
columns come from outside, so they appear in tables, which the page escapes, and never in a plot.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from memaudit.report.curves import Axis, Line
from memaudit.report.page_figures import Card
from memaudit.report.plots import line_plot
from memaudit.report.reading import (
    column,
    confidence,
    figures,
    model_attacks,
    passed_through,
    scored,
    strongest,
)
from memaudit.report.report_json import Document
from memaudit.report.wording import (
    level,
    percent_interval,
    shorten,
)
from memaudit.score.estimate import percent
from memaudit.score.stats import Bools, Floats, Interval, clopper_pearson

MOST_CARDS = 6
_MOST_NUMBERS = 12
"""Distinct numbers with a group each; more are binned into `_BINS` ranges of equal counts."""
_BINS = 8
_MOST_WORDS = 30
"""Distinct texts with a group each; a column with more identifies samples, not groups."""
_LONGEST_NAME = 80
_MARKERS = {"none": "o", "dynamic-hard": "^", "constant": "s", "dynamic": "D"}


class Group(NamedTuple):
    """Windows with the same value in a column."""

    name: str
    rows: Bools
    """(N,) mask of the scored windows of the data."""


class Column(NamedTuple):
    """A column and its groups."""

    name: str
    numeric: bool
    groups: list[Group]


def group_cards(document: Document, samples: pd.DataFrame) -> list[Card]:
    """Return up to `MOST_CARDS` cards, one for each column with groups, numeric columns first."""
    rows = scored(samples, "data")
    candidates = (_column(rows, name) for name in passed_through(samples))
    grouped = [candidate for candidate in candidates if candidate is not None]
    columns = sorted(grouped, key=lambda candidate: not candidate.numeric)
    return [
        _card(document, rows, grouping, f"column-{place}")
        for place, grouping in enumerate(columns[:MOST_CARDS])
    ]


def _column(rows: pd.DataFrame, name: str) -> Column | None:
    """Return a column's groups; None if its values are all equal or too many."""
    texts = rows[name].astype(str)
    filled = (texts != "").to_numpy()
    values = pd.to_numeric(texts.where(filled), errors="coerce").to_numpy(dtype=np.float64)
    numeric = bool(filled.any() and np.isfinite(values[filled]).all())
    groups = list(_by_number(values, filled) if numeric else _by_word(texts[filled]))
    if len(groups) < 2:
        return None
    if not filled.all():
        groups.append(Group("(none)", ~filled))
    if not numeric:
        groups = [Group(group.name, (texts == group.name).to_numpy()) for group in groups]
    return Column(name, numeric, groups)


def _by_number(values: Floats, filled: Bools) -> Iterator[Group]:
    distinct = np.unique(values[filled])
    if len(distinct) <= _MOST_NUMBERS:
        yield from (Group(_label(value), values == value) for value in distinct)
        return
    ends = np.unique(np.quantile(values[filled], np.linspace(0, 1, _BINS + 1), method="lower"))
    for place, (low, high) in enumerate(itertools.pairwise(ends)):
        inside = (values > low if place else values >= low) & (values <= high)
        yield Group(f"{'over ' if place else ''}{_label(low)} to {_label(high)}", inside)


def _label(value: float) -> str:
    """Format a number with all its digits: years and dates differ in the last ones."""
    return f"{value:.15g}"


def _by_word(texts: pd.Series[str]) -> Iterator[Group]:
    counted = texts.value_counts()
    if len(counted) <= _MOST_WORDS:
        yield from (Group(str(name), np.empty(0, dtype=bool)) for name in sorted(counted.index))


def _card(document: Document, rows: pd.DataFrame, grouping: Column, name: str) -> Card:
    attacks = [attack["attack"] for attack in model_attacks(document)]
    hits = {attack: figures(rows, column("exact", attack)) == 1 for attack in attacks}
    sure = confidence(document)
    table, lines = [], []
    for attack in attacks:
        rates = [
            _rate(hits[attack][group.rows], sure) for group in grouping.groups if group.rows.any()
        ]
        lines.append(_line(attack, attacks, rates))
    best = strongest(document)
    interval = [] if best is None else [f"interval, {best['attack']}"]
    for group in grouping.groups:
        cells = [_counted(hits[attack][group.rows]) for attack in attacks]
        if best is not None:
            rate = _rate(hits[best["attack"]][group.rows], sure)
            cells.append(percent_interval(rate.interval))
        table.append([shorten(group.name, _LONGEST_NAME), f"{int(group.rows.sum()):,}", *cells])
    names = [group.name for group in grouping.groups if group.rows.any()]
    crowded = len(names) > _MOST_NUMBERS or any(len(group) > 8 for group in names)
    labels = [str(place + 1) for place in range(len(names))] if crowded else names
    axis = Axis("group, as in the table" if crowded else name, ticks=range(len(names)))
    plot = ""
    if grouping.numeric and lines:
        axis = Axis(axis.label, ticks=axis.ticks, names=labels)
        plot = line_plot(name, lines, axis, Axis("windows extracted exactly, %", low=0))
    return Card(
        name,
        f"By {shorten(grouping.name, _LONGEST_NAME)}",
        f"Share of windows extracted exactly, with the exact interval at {level(sure)} confidence, "
        "which treats windows as independent.",
        plot,
        [shorten(grouping.name, _LONGEST_NAME), "windows", *attacks, *interval],
        table,
    )


class _Rate(NamedTuple):
    estimate: float
    interval: Interval


def _rate(hits: Bools, sure: float) -> _Rate:
    k, n = int(hits.sum()), len(hits)
    return _Rate(k / n if n else 0.0, clopper_pearson(k, n, sure))


def _counted(hits: Bools) -> str:
    return f"{int(hits.sum()):,} ({percent(float(hits.mean()))})" if len(hits) else "-"


def _line(attack: str, attacks: Sequence[str], rates: Sequence[_Rate]) -> Line:
    """Return an attack's line, shifted a little so that no interval hides another."""
    shift = 0.12 * (attacks.index(attack) - (len(attacks) - 1) / 2)
    return Line(
        attack,
        attack,
        [place + shift for place in range(len(rates))],
        [100 * rate.estimate for rate in rates],
        [100 * rate.interval.low for rate in rates],
        [100 * rate.interval.high for rate in rates],
        marker=_MARKERS[attack],
    )
