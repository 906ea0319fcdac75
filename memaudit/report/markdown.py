"""Markdown summary of a result, small enough for a CI step.

Knows GitHub's Markdown and its size limit. Every string from outside is escaped: none becomes
markup, a link, a mention or a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from memaudit.report.blocks import Facts, Head, Table, notes, table_cells
from memaudit.report.model import Report
from memaudit.report.provenance import provenance
from memaudit.report.reading import verdict
from memaudit.report.sections import gates, ladder, leaks, origins, worst_windows
from memaudit.report.wording import neutral, shorten

MOST_BYTES = (1 << 20) - 4096
"""GitHub allows 1 MiB for a step's summary, which other tools may write to as well."""
_WORST = 20
_LONGEST_ID = 200
_LONGEST_LINE = 2000
_SIGNS = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️", "none": "ℹ️"}
_MARKUP = re.compile(r"([\\`*_{}\[\]|~$])")
_ACTIVE = re.compile(r"[&<>@#]|(?<=:)//|(?<=\bwww)\.", re.IGNORECASE)
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_CUT = "\nThe rest is left out: a summary is limited in size. See report.json and windows.csv."


def to_markdown(report: Report, windows: pd.DataFrame) -> str:
    """Return verdict, gates, attacks, worst windows and provenance. No audited text."""
    taken: list[str] = []
    size = len(_CUT.encode())
    for line in _lines(report, windows):
        size += len(line.encode()) + 1
        if size > MOST_BYTES:
            taken.append(_CUT)
            break
        taken.append(line)
    return "\n".join(taken) + "\n"


def blocks_to_markdown(
    word: str, title: str, sentence: str, blocks: Iterable[Table | Facts]
) -> str:
    """Return a document of its own: a verdict, tables, and facts folded away."""
    lines = [f"## {_SIGNS[word]} {_prose(title)}", "", f"**{_prose(sentence)}**"]
    for block in blocks:
        folded = (
            _folded(block.title or "Provenance", block)
            if isinstance(block, Facts)
            else table_lines(block)
        )
        lines += ["", *folded]
    return "\n".join(lines) + "\n"


def _lines(report: Report, windows: pd.DataFrame) -> Iterator[str]:
    word, sentence = verdict(report)
    yield f"## {_SIGNS[word]} memaudit: {_prose(report.target.name)}"
    yield from ("", f"**{_prose(sentence)}**")
    yield ""
    yield from (f"- {_paragraph(_prose(line))}" for line in report.headline)
    tables = [*leaks(report), *gates(report), ladder(report), *origins(report)]
    for table in [*tables, *worst_windows(report, windows, _WORST)]:
        yield ""
        yield from table_lines(table)
    yield ""
    yield from _folded("Provenance", provenance(report))


def _paragraph(text: str) -> str:
    """Escape a start that Markdown takes for a list or code, or a log for a command."""
    return re.sub(r"^(\d+(?=[.)])|(?=[-+]|::))", r"\1\\", text.lstrip())


def table_lines(table: Table) -> Iterator[str]:
    """Yield a table with its title and its notes."""
    yield from (f"### {_prose(table.title)}", "")
    yield _row([_prose(column.name) for column in table.columns])
    yield _row(["---" if column.unit == "text" else "--:" for column in table.columns])
    for number, row in enumerate(table_cells(table)):
        cells = [_cell(text, column) for text, column in zip(row, table.columns, strict=True)]
        strong = number == table.strong
        yield _row([f"**{cell}**" if strong and cell else cell for cell in cells])
    if lines := notes(table, table.columns):
        yield from ("", f"<sub>{' '.join(map(_prose, lines))}</sub>")


def _cell(text: str, column: Head) -> str:
    if column.style == "id":
        return f"<code>{_prose(text, _LONGEST_ID)}</code>"
    return f"{_SIGNS[text]} {text}" if column.style == "verdict" else _prose(text)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _folded(title: str, facts: Facts) -> Iterator[str]:
    yield from (f"<details><summary>{title}</summary>", "")
    label = ""
    for heading, line in facts.rows:
        label = heading or label
        yield f"- {label}: {_prose(line)}"
    yield from ("", "</details>")


def _prose(text: str, longest: int = _LONGEST_LINE) -> str:
    """Return text on one line with nothing that Markdown acts on.

    A backslash does not stop mentions and addresses that become links, so a meaningless element
    separates the sign from the text around it.
    """
    escaped = _MARKUP.sub(r"\\\1", shorten(neutral(text), longest))
    return _ACTIVE.sub(lambda sign: _ENTITIES.get(sign[0], f"<span>{sign[0]}</span>"), escaped)
