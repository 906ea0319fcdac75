"""Markdown summary of a result, small enough for a CI step.

Knows GitHub's Markdown and its size limit. Every string from outside is escaped: none becomes
markup, a link, a mention or a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from memaudit.report.leaks import leak_rows
from memaudit.report.origin_reading import HEADS, MORE_HEADS, ORIGIN_LEGEND, origin_rows
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
    lift_texts,
    not_run,
    origin_words,
    rate_text,
    scored,
    strongest,
    verdict,
    worst_rows,
)
from memaudit.report.report_json import Document
from memaudit.report.wording import (
    level,
    neutral,
    shorten,
)
from memaudit.score.estimate import number, percent

MOST_BYTES = (1 << 20) - 4096
"""GitHub allows 1 MiB for a step's summary, which other tools may write to as well."""
_WORST = 20
_LONGEST_ID = 200
_LONGEST_LINE = 2000
_SIGNS = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️", "none": "ℹ️"}
_MARKUP = re.compile(r"([\\`*_{}\[\]|~$])")
_ACTIVE = re.compile(r"[&<>@#]|(?<=:)//|(?<=\bwww)\.", re.IGNORECASE)
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_CUT = "\nThe rest is left out: a summary is limited in size. See report.json and samples.csv."


def to_markdown(document: Document, samples: pd.DataFrame) -> str:
    """Return verdict, gates, attacks, worst windows and provenance. No audited text."""
    taken: list[str] = []
    size = len(_CUT.encode())
    for line in _lines(document, samples):
        size += len(line.encode()) + 1
        if size > MOST_BYTES:
            taken.append(_CUT)
            break
        taken.append(line)
    return "\n".join(taken) + "\n"


def _lines(document: Document, samples: pd.DataFrame) -> Iterator[str]:
    word, sentence = verdict(document)
    yield f"## {_SIGNS[word]} memaudit: {_prose(document['target']['name'])}"
    yield from ("", f"**{_prose(sentence)}**")
    yield from ("", _paragraph(" ".join(map(_prose, document["headline"]))), "")
    if document["gates"]:
        yield from _table(["gate", "verdict", "why"], map(_gate_row, document["gates"]))
        yield ""
    yield from _attacks(document)
    yield from _origins(document)
    yield from _worst(document, samples)
    yield from _sensitive(document)
    yield from ("", "<details><summary>Provenance</summary>", "")
    label = ""
    for heading, line in provenance_lines(document):
        label = heading or label
        yield f"- {label}: {_prose(line)}"
    yield from ("", "</details>")


def _paragraph(text: str) -> str:
    """Escape a start that Markdown takes for a list or code, or a log for a command."""
    return re.sub(r"^(\d+(?=[.)])|(?=[-+]|::))", r"\1\\", text.lstrip())


def _gate_row(gate: Document) -> list[str]:
    sign = _SIGNS[gate["verdict"]]
    return [_prose(gate_name(gate)), f"{sign} {gate['verdict']}", _prose(gate["reason"])]


def _attacks(document: Document) -> Iterator[str]:
    strong = strongest(document)
    heads = ["attack", "exact", "rate", f"{level(confidence(document))} interval", "fractional"]
    heads += ["lift", "gained", "lost", "p", "controls"]
    rows = (_attack_row(attack, attack is strong) for attack in document["attacks"])
    yield from _table(heads, rows, figures_from=1)
    yield ""
    yield (
        "<sub>exact: windows with every suffix token extracted. interval: the outer ends of the "
        "exact and clustered intervals. lift: exact rate above that of none, in percentage points."
        f"{_left_out(document)}</sub>"
    )


def _attack_row(attack: Document, strong: bool) -> list[str]:
    exact = attack["exact"]
    cells = [attack["attack"], count_text(exact), rate_text(exact)]
    cells += [interval_text(exact["interval"]), percent(figure(attack["fractional"]["estimate"]))]
    cells += [*lift_texts(attack["lift"]), count_text(controls_rate(attack))]
    return [f"**{cell}**" if strong and cell else cell for cell in cells]


def _left_out(document: Document) -> str:
    missing = not_run(document)
    return f" Not run: {', '.join(missing)}." if missing else ""


def _origins(document: Document) -> Iterator[str]:
    rows = origin_rows(document)
    if rows:
        yield from ("", "### Known before the fine-tuning, or leaked by it", "")
        yield from _table([*HEADS, *MORE_HEADS], rows, figures_from=1)
        yield from ("", f"<sub>{ORIGIN_LEGEND}</sub>")


def _worst(document: Document, samples: pd.DataFrame) -> Iterator[str]:
    rows = scored(samples, "data")
    extracted = int(np.any(hits(document, rows), axis=0).sum())
    worst = rows.iloc[worst_rows(document, rows, _WORST)]
    if not len(worst):
        return
    title = f"Worst windows, of {extracted:,} extracted" if extracted else "Closest to extraction"
    origins = origin_words(document, worst) if has_reference(document) else []
    heads = ["sample", "line", "window", "extracted by", *(["known from"] if origins else [])]
    figures_from = len(heads)
    heads += [f"matched of {document['data']['suffix_tokens']}", "NLL"]
    matched = best(document, worst, "matched")
    nll = best(document, worst, "suffix_nll", least=True)
    cells = (
        [
            *(*_place(document, row), *origins[place : place + 1]),
            *(number(matched[place], 0), number(nll[place])),
        ]
        for place, row in enumerate(worst.to_dict("records"))
    )
    yield from ("", f"### {title}", "")
    yield from _table(heads, cells, figures_from=figures_from)


def _sensitive(document: Document) -> Iterator[str]:
    attacks, rows, left_out = leak_rows(document["sensitive"])
    if not rows:
        return
    yield from ("", "### Sensitive content in the suffixes", "")
    yield from _table(["category", "windows", "extracted", *attacks], rows, figures_from=1)
    if left_out:
        yield from ("", f"<sub>Not searched: {left_out}.</sub>")


def _place(document: Document, row: dict[Any, Any]) -> list[str]:
    by = extracted_by(document, row)
    return [_code(row["sample_id"]), str(row["line"]), str(row["window"]), by]


def _table(
    heads: list[str], rows: Iterable[list[str]], *, figures_from: int | None = None
) -> Iterator[str]:
    """A table whose cells are safe already; those from ``figures_from`` on stand on the right."""
    first = len(heads) if figures_from is None else figures_from
    yield _row(heads)
    yield _row(["---"] * first + ["--:"] * (len(heads) - first))
    yield from map(_row, rows)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _prose(text: str, longest: int = _LONGEST_LINE) -> str:
    """Return text on one line with nothing that Markdown acts on.

    A backslash does not stop mentions and addresses that become links, so a meaningless element
    separates the sign from the text around it.
    """
    escaped = _MARKUP.sub(r"\\\1", shorten(neutral(text), longest))
    return _ACTIVE.sub(lambda sign: _ENTITIES.get(sign[0], f"<span>{sign[0]}</span>"), escaped)


def _code(text: str) -> str:
    return f"<code>{_prose(text, _LONGEST_ID)}</code>"
