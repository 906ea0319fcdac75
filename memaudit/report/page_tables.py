"""Tables of the page: attacks, samples and provenance.

Knows the document, the samples, and how much a browser can bear. Knows nothing of markup: the page
escapes all text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from memaudit.report.reading import (
    batch_reason,
    batch_remark,
    best,
    confidence,
    count_text,
    extracted_by,
    figure,
    has_reference,
    interval_text,
    lift_texts,
    origin_words,
    passed_through,
    rate_text,
    revealed_texts,
    scored,
    worst_rows,
)
from memaudit.report.report_json import Document
from memaudit.report.wording import (
    count,
    level,
    points_interval,
    shorten,
)
from memaudit.score.estimate import MISSING, number, percent
from memaudit.score.stats import Floats, Interval

MOST_ROWS = 1_000
"""Windows in the page: a browser would take minutes to lay out a hundred thousand."""
MOST_PASSED = 6
"""Columns of the data in the same table."""
_MOST_CONTROLS = 100
_MOST_TEXTS = 20
_LONGEST_CELL = 80
_LONGEST_VALUE = 500
_MOST_FACTS = 400
"""Files, settings or reasons in one list."""


class Head(NamedTuple):
    """Head of a sortable column."""

    name: str
    numeric: bool


class SampleTable(NamedTuple):
    """Table of the worst windows."""

    caption: str
    """Number of windows shown, and where the rest is."""
    heads: list[Head]
    rows: list[list[str]]


class Facts(NamedTuple):
    """Labelled facts under a title."""

    title: str
    rows: list[tuple[str, str]]


def attack_table(document: Document) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the attack table, with all columns."""
    head = ["attack", "exact", "rate", f"{level(confidence(document))} interval", "fractional"]
    head += ["NLL", "lift", "gained", "lost", "p", "above controls", "p"]
    return head, [_attack_row(attack) for attack in document["attacks"]]


def _attack_row(attack: Document) -> list[str]:
    exact = attack["exact"]
    cells = [
        attack["attack"],
        count_text(exact),
        rate_text(exact),
        interval_text(exact["interval"]),
    ]
    cells += [percent(figure(attack["fractional"]["estimate"]))]
    cells += [number(figure(attack["suffix_nll"])), *lift_texts(attack["lift"])]
    difference = attack["controls"] and attack["controls"]["difference"]
    if not difference:
        return [*cells, "", ""]
    low, high = figure(difference["interval"]["low"]), figure(difference["interval"]["high"])
    p = figure(difference["p_value"])
    return [
        *cells,
        MISSING if math.isnan(low + high) else points_interval(Interval(low, high)),
        MISSING if math.isnan(p) else f"{p:.2g}",
    ]


def sample_table(document: Document, samples: pd.DataFrame) -> SampleTable:
    """Return the worst windows of the data, then the extracted controls."""
    data, controls = scored(samples, "data"), scored(samples, "control")
    worst = data.iloc[worst_rows(document, data, MOST_ROWS)]
    wrong = controls.iloc[worst_rows(document, controls, _MOST_CONTROLS)]
    wrong = wrong[best(document, wrong, "exact") == 1]
    names = passed_through(samples)[:MOST_PASSED]
    heads = [Head("sample", False), Head("line", True), Head("window", True), Head("role", False)]
    heads += [Head("extracted by", False)]
    heads += [Head("known from", False)] if has_reference(document) else []
    heads += [Head("matched", True), Head("longest run", True)]
    heads += [Head("tokens right", True), Head("NLL", True), Head("samples for p = 0.5", True)]
    heads += [Head(shorten(name, _LONGEST_CELL), _is_numeric(samples[name])) for name in names]
    rows = [row for part in (worst, wrong) for row in _sample_rows(document, part, names)]
    caption = f"The worst {count(len(worst), 'window')} of {len(data):,}"
    caption += f", and {count(len(wrong), 'extracted control')}" if len(wrong) else ""
    left = len(passed_through(samples)) - len(names)
    caption += f"; {count(left, 'column')} of the data left out" if left > 0 else ""
    return SampleTable(f"{caption}. samples.csv holds all rows.", heads, rows)


def _sample_rows(document: Document, rows: pd.DataFrame, names: list[str]) -> Iterator[list[str]]:
    scores = {
        score: best(document, rows, score) for score in ("matched", "longest_run", "fractional")
    }
    nll = best(document, rows, "suffix_nll", least=True)
    origins = origin_words(document, rows) if has_reference(document) else []
    for place, row in enumerate(rows.to_dict("records")):
        cells = [shorten(row["sample_id"], _LONGEST_CELL), str(row["line"]), str(row["window"])]
        cells += [row["role"], extracted_by(document, row), *origins[place : place + 1]]
        cells += [number(_at(scores[score], place), 0) for score in ("matched", "longest_run")]
        cells += [number(_at(scores["fractional"], place)), number(_at(nll, place), 3)]
        cells += [_samples_needed(row["queries_p50"])]
        yield cells + [shorten(row[name], _LONGEST_CELL) for name in names]


def _at(values: Floats, place: int) -> float:
    return float(values[place])


def _samples_needed(needed: float) -> str:
    if math.isnan(needed):
        return "-"
    if math.isinf(needed):
        return "∞"
    return f"{needed:.0f}" if needed < 1e6 else f"{needed:.1e}"


def _is_numeric(column: pd.Series[Any]) -> bool:
    texts = column[column != ""]
    return len(texts) > 0 and bool(pd.to_numeric(texts, errors="coerce").notna().all())


class RevealedWindow(NamedTuple):
    """One window's text, as the user asked for it."""

    title: str
    texts: list[tuple[str, str]]


def revealed_windows(document: Document, samples: pd.DataFrame) -> list[RevealedWindow]:
    """Return the text of the worst windows; empty unless the run revealed it."""
    texts = revealed_texts(document, samples)
    if not texts:
        return []
    rows = scored(samples, "data")
    worst = rows.iloc[worst_rows(document, rows, _MOST_TEXTS)]
    return [
        RevealedWindow(
            f"{shorten(row['sample_id'], _LONGEST_CELL)}, line {row['line']}, "
            f"window {row['window']}: extracted by {extracted_by(document, row)}",
            [(name, row[column]) for name, column in texts],
        )
        for row in worst.to_dict("records")
    ]


def provenance(document: Document) -> list[Facts]:
    """Return everything needed to understand and repeat the measurement."""
    run = document["run"]
    seconds = ", ".join(f"{name} {spent:g} s" for name, spent in run["seconds"].items())
    facts = [
        Facts(
            "Run",
            [
                ("memaudit", document["tool"]["version"]),
                ("command", document["command"]),
                ("started", run["started"]),
                ("time taken", seconds),
                ("resumed", f"{run['resumed']:,} times"),
                ("processes", f"{run['processes']:,}"),
                ("batch size", f"{run['batch_size']:,} ({batch_reason(document)})"),
                *_tuning_passes(document),
                *((f"{name}", str(value)) for name, value in document["seeds"].items()),
                *((name, value) for name, value in run["machine"].items()),
                ("libraries", ", ".join(f"{k} {v}" for k, v in run["libraries"].items())),
            ],
        ),
        Facts("Model", _model(document["target"])),
        *_reference(document),
        Facts("Data", _corpus(document["data"])),
    ]
    if document["controls"] is not None:
        facts.append(Facts("Controls", _corpus(document["controls"])))
    facts.append(Facts("Folds", _folds(document)))
    return [Facts(part.title, _bounded(part.rows)) for part in facts]


def _tuning_passes(document: Document) -> list[tuple[str, str]]:
    """Return the windows per fitting pass, if memory did not allow what was planned."""
    remark = batch_remark(document, "tuning")
    passes = document["run"]["batches"]["tuning"]["final"] if remark else 0
    return [("windows per fitting pass", f"{passes:,} ({remark})")] if remark else []


def _model(model: Document) -> list[tuple[str, str]]:
    return [
        ("name", model["name"]),
        ("revision", model["revision"] or "-"),
        ("architecture", f"{model['architecture']}, {model['parameters']:,} parameters"),
        *(
            (name, f"{choice['value']} ({choice['reason']})")
            for name, choice in model["choices"].items()
        ),
        *((f"SHA-256 of {name}", sha) for name, sha in model["fingerprint"].items()),
    ]


def _reference(document: Document) -> list[Facts]:
    section = document["reference"]
    return [] if section is None else [Facts("Reference", _model(section["model"]))]


def _corpus(corpus: Document) -> list[tuple[str, str]]:
    clusters = corpus["clusters"]
    return [
        ("file", corpus["path"]),
        ("HMAC-SHA256", corpus["hmac_sha256"]),
        ("project key", corpus["key_id"]),
        ("rows", f"{corpus['rows']:,}, of which {corpus['bad']:,} unusable"),
        ("samples", f"{corpus['used']:,} of {corpus['samples']:,} yield a window"),
        (
            "windows",
            f"{corpus['windows']:,} of {corpus['prefix_tokens']}+{corpus['suffix_tokens']}",
        ),
        (
            "clusters",
            f"{clusters['count']:,}, the largest of {count(clusters['largest'], 'window')}",
        ),
        ("tokens across the prefix boundary", f"{corpus['boundary_shifts']:,}"),
        *((f"skipped {skip['count']:,}", skip["reason"]) for skip in corpus["skipped"]),
    ]


def _folds(document: Document) -> list[tuple[str, str]]:
    return [
        (
            f"fold {fold['fold']}",
            f"fit {fold['fit']:,}, select {fold['select']:,}, audit {fold['audit']:,} windows",
        )
        for fold in document["folds"]
    ] or [("folds", "none")]


def settings_rows(document: Document) -> list[tuple[str, str, str]]:
    """Return every setting with its value and the source of the value."""
    values, sources = document["config"]["values"], document["config"]["sources"]
    rows = [
        (shorten(name, _LONGEST_CELL), shorten(value, _LONGEST_VALUE), sources.get(name, "default"))
        for name, value in _leaves(values)
    ]
    return rows[:_MOST_FACTS]


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield settings by dotted name, two levels deep as in a config file."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", json.dumps(leaf)) for key, leaf in value.items())
        else:
            yield name, json.dumps(value)


def _bounded(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    bounded = [(name, shorten(value, _LONGEST_VALUE)) for name, value in rows[:_MOST_FACTS]]
    left = len(rows) - len(bounded)
    return [*bounded, ("", f"and {left:,} more")] if left else bounded
