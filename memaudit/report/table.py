"""Terminal view of a result: the finding in sentences, then tables, then the provenance.

Knows Rich and the width. Knows nothing of terminals: it renders into a string. Every string from
outside goes through `neutral` into a Rich Text, never into markup.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from memaudit.report.leaks_table import leak_table
from memaudit.report.origin_table import origin_tables
from memaudit.report.provenance import provenance_lines
from memaudit.report.reading import (
    best,
    confidence,
    controls_rate,
    count_text,
    extracted_by,
    figure,
    gate_name,
    has_reference,
    hits,
    interval_text,
    is_hit,
    lift_texts,
    not_run,
    origin_words,
    rate_text,
    revealed_texts,
    scored,
    strongest,
    worst_rows,
)
from memaudit.report.rendering import PROSE_WIDTH, harmless, prose, titled_table, to_text
from memaudit.report.report_json import Document
from memaudit.report.wording import (
    level,
    neutral,
    shorten,
)
from memaudit.score.estimate import number, percent

_LEAST_WIDTH = 78
"""Narrower tables are unreadable; a narrower terminal wraps whole lines instead."""
_WIDE = 100
"""Least width with room for the paired test of the lift."""
_WORST = 10
_LONGEST_ID = 200
_COLOURS = {"pass": "bold green", "inconclusive": "bold yellow", "fail": "bold red"}


def render_table(document: Document, samples: pd.DataFrame, *, width: int, color: bool) -> str:
    """Render the whole report in ``width`` columns, with or without ANSI colour.

    Shows ids, lines and figures; text of windows only if the samples hold it.
    """
    width = max(width, _LEAST_WIDTH)
    first, *rest = _sections(document, samples, width)
    parts = [first, *(part for section in rest for part in (Text(), section))]
    return to_text(parts, width=width, color=color)


def _sections(document: Document, samples: pd.DataFrame, width: int) -> Iterator[RenderableType]:
    first, *rest = document["headline"]
    yield prose(harmless(first, "bold"), *map(harmless, rest))
    yield _ladder(document, width >= _WIDE)
    yield prose(*(harmless(line, "dim") for line in _legend(document)))
    yield from origin_tables(document, width)
    yield _gates(document)
    rows = scored(samples, "data")
    worst = rows.iloc[worst_rows(document, rows, _WORST)]
    if len(worst):
        yield _worst(document, worst, int(hits(document, rows).any(axis=0).sum()))
        if texts := revealed_texts(document, samples):
            yield _texts(worst, texts)
    yield from leak_table(document["sensitive"])
    yield _provenance(document)


def _ladder(document: Document, wide: bool) -> Table:
    strong = strongest(document)
    controls = any(controls_rate(attack) for attack in document["attacks"])
    table = titled_table("Attacks, weakest first")
    table.add_column("attack", no_wrap=True)
    interval = f"{level(confidence(document))} interval"
    heads = ["exact", "rate", interval, "fractional", "lift"]
    heads += ["gained", "lost", "p"] if wide else []
    for head in [*heads, *(["controls"] if controls else [])]:
        # The head of the interval may wrap to make room for counts in the millions.
        table.add_column(head, justify="right", no_wrap=head != interval)
    for attack in document["attacks"]:
        cells = _ladder_cells(attack, wide)
        cells += [count_text(controls_rate(attack))] if controls else []
        table.add_row(*map(harmless, cells), style="bold" if attack is strong else "")
    return table


def _ladder_cells(attack: Document, wide: bool) -> list[str]:
    exact = attack["exact"]
    cells = [attack["attack"], count_text(exact), rate_text(exact)]
    cells += [interval_text(exact["interval"]), percent(figure(attack["fractional"]["estimate"]))]
    lift, *paired = lift_texts(attack["lift"])
    return [*cells, lift, *(paired if wide else [])]


def _legend(document: Document) -> Iterator[str]:
    yield (
        "exact: windows with every suffix token extracted. interval: the outer ends of the exact "
        "(Clopper–Pearson) and clustered (bootstrap) intervals. fractional: mean share of suffix "
        "tokens extracted in place. lift: exact rate above that of none, in percentage points."
    )
    if any(attack["attack"] == "copy" for attack in document["attacks"]):
        yield (
            "copy never queries the model: it repeats what followed a similar prefix in the fit "
            "data."
        )
    if missing := not_run(document):
        yield f"Not run: {', '.join(missing)}."


def _gates(document: Document) -> RenderableType:
    if not document["gates"]:
        return harmless("No gate was set, so this run neither passes nor fails.")
    table = Table.grid(padding=(0, 2))
    table.title, table.title_justify = Text("Gates", style="bold"), "left"
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(max_width=PROSE_WIDTH - 26)
    for gate in document["gates"]:
        word = Text(gate["verdict"].upper(), style=_COLOURS[gate["verdict"]])
        table.add_row(word, harmless(gate_name(gate)), harmless(gate["reason"]))
    return table


def _worst(document: Document, worst: pd.DataFrame, extracted: int) -> Table:
    suffix = document["data"]["suffix_tokens"]
    title = f"Worst windows, of {extracted:,} extracted"
    table = titled_table(title if extracted else "Closest to being extracted")
    table.add_column("sample", overflow="fold")
    for head in ("line", "window"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("extracted by")
    origins = origin_words(document, worst) if has_reference(document) else []
    if origins:
        table.add_column("known from", no_wrap=True)
    for head in (f"matched of {suffix}", "NLL"):
        table.add_column(head, justify="right", no_wrap=True)
    matched = best(document, worst, "matched")
    nll = best(document, worst, "suffix_nll", least=True)
    for place, row in enumerate(worst.to_dict("records")):
        cells = [_name(row), str(row["line"]), str(row["window"]), extracted_by(document, row)]
        cells += origins[place : place + 1]
        table.add_row(*map(harmless, [*cells, number(matched[place], 0), number(nll[place])]))
    table.caption = harmless(
        "matched: most tokens before a mismatch; NLL: lowest, nats/token", "dim"
    )
    table.caption_justify = "left"
    return table


def _name(row: dict[Any, Any]) -> str:
    return shorten(neutral(row["sample_id"]), _LONGEST_ID)


def _texts(worst: pd.DataFrame, texts: list[tuple[str, str]]) -> RenderableType:
    """Render prefix, suffix and outputs of the worst windows, one block each."""
    grid = Table.grid(padding=(0, 2))
    grid.title, grid.title_justify = Text("Text of the worst windows", style="bold"), "left"
    grid.add_column(no_wrap=True)
    grid.add_column(max_width=PROSE_WIDTH - 14)
    for place, row in enumerate(worst.to_dict("records")):
        if place:
            grid.add_row()
        where = f"(line {row['line']}, window {row['window']})"
        grid.add_row(harmless("sample", "bold"), harmless(f"{_name(row)} {where}", "bold"))
        for name, column in texts:
            given = name in ("prefix", "suffix")
            style = "red" if not given and is_hit(row, name) else ""
            grid.add_row(harmless(name, style), harmless(row[column], style))
    return grid


def _provenance(document: Document) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(max_width=PROSE_WIDTH - 10)
    for label, line in provenance_lines(document):
        grid.add_row(harmless(label), harmless(line))
    return grid
