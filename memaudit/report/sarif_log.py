"""SARIF 2.1.0: a result for each extracted sample, at the data file and line, without any text.

Knows SARIF and the limits of those who read it. Samples that only ``copy`` gets are left out: it
never asks the model.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from memaudit.report.reading import (
    Row,
    extracted,
    has_reference,
    hits,
    is_hit,
    model_attacks,
    scored,
    void_reason,
    worst_rows,
)
from memaudit.report.report_json import Document
from memaudit.report.wording import count, json_text, neutral, shorten

MOST_RESULTS = 25_000
"""Of a run: GitHub's code scanning refuses a file with more."""
FINGERPRINT = "memauditSample/v1"
"""Names the hash by which a sample is known again wherever its line has moved to."""
_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
_FILES = (".jsonl", ".gz", ".json", ".csv", ".parquet", ".txt")
"""What the name of a data file ends with; anything else is a folder of files."""
_LONGEST_ID = 200
_PLAIN, _PROMPTED = "extracted-by-prefix", "extracted-by-prompt"
_RULES = (
    (
        _PLAIN,
        "error",
        "The model goes on with this sample word for word when it is shown its beginning.",
    ),
    (
        _PROMPTED,
        "warning",
        "The model goes on with this sample word for word after a prompt and its beginning.",
    ),
)


def to_sarif(document: Document, samples: pd.DataFrame) -> str:
    """The log, those samples first that fare worst; what the limit leaves out is said in it."""
    found = _extracted(document, samples)
    version = neutral(document["tool"]["version"])
    run: dict[str, Any] = {
        "tool": {"driver": {"name": "memaudit", "version": version, "rules": _rules()}},
        "invocations": [_invocation(document, len(found))],
        "results": [_result(document, windows) for windows in found[:MOST_RESULTS]],
        "columnKind": "unicodeCodePoints",
        "properties": {
            "model": neutral(document["target"]["name"]),
            "extractedSamples": len(found),
            "headline": [neutral(sentence) for sentence in document["headline"]],
        },
    }
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json_text(log, indent=1)


def _rules() -> list[dict[str, Any]]:
    return [
        {
            "id": name,
            "shortDescription": {"text": text},
            "fullDescription": {"text": text},
            "defaultConfiguration": {"level": grade},
        }
        for name, grade, text in _RULES
    ]


def _invocation(document: Document, found: int) -> dict[str, Any]:
    """The run went well, whatever its gates say; where it means nothing, that no result is there
    means nothing either.
    """
    made: dict[str, Any] = {"executionSuccessful": True, "exitCode": document["exit_code"]}
    told = []
    if found > MOST_RESULTS:
        text = (
            f"{MOST_RESULTS:,} of {found:,} extracted samples are listed, those that fare worst; "
            "samples.csv holds all of them."
        )
        told.append({"level": "warning", "message": {"text": text}})
    if reason := void_reason(document):
        text = f"This run means nothing. {neutral(reason)}"
        told.append({"level": "error", "message": {"text": _message(text)}})
    return {**made, **({"toolExecutionNotifications": told} if told else {})}


def _extracted(document: Document, samples: pd.DataFrame) -> list[list[Row]]:
    """The extracted windows of each extracted sample of the data, worst sample first."""
    rows = scored(samples, "data")
    rows = rows[np.any(hits(document, rows), axis=0)]
    rows = rows.iloc[worst_rows(document, rows, len(rows))]
    places = samples[samples["role"] == "data"][["line", "sample_id"]].drop_duplicates()
    places = places.sort_values("line")
    occurrence = dict(zip(_keys(places), places.groupby("sample_id").cumcount(), strict=True))
    by_sample: dict[tuple[int, str], list[Row]] = {}
    leaked = extracted(document, rows).leaked.tolist()
    for key, row, since in zip(_keys(rows), rows.to_dict("records"), leaked, strict=True):
        more = {"occurrence": occurrence[key], "leaked": since}
        by_sample.setdefault(key, []).append({**row, **more})
    return list(by_sample.values())


def _keys(rows: pd.DataFrame) -> list[tuple[int, str]]:
    """Line and id: what tells samples apart."""
    return list(zip(rows["line"].tolist(), rows["sample_id"].tolist(), strict=True))


def _result(document: Document, windows: list[Row]) -> dict[str, Any]:
    """One sample. ``windows``: its rows that are extracted, at least one."""
    first = windows[0]
    rule = 0 if any(is_hit(row, "none") for row in windows) else 1
    name, grade, _ = _RULES[rule]
    shown = shorten(neutral(first["sample_id"]), _LONGEST_ID)
    numbers = ", ".join(sorted((str(row["window"]) for row in windows[:20]), key=int))
    where = f"{count(len(windows), 'window')}: {numbers}{', …' if len(windows) > 20 else ''}"
    ran = [attack["attack"] for attack in model_attacks(document)]
    by = ", ".join(attack for attack in ran if any(is_hit(row, attack) for row in windows))
    told = ""
    if has_reference(document):
        leaked = sum(row["leaked"] for row in windows)
        told = f" The fine-tuning leaked {leaked:,} of them; the others were known before."
    text = f"Sample {shown} is extracted exactly by {by} ({where}).{told}"
    return {
        "ruleId": name,
        "ruleIndex": rule,
        "level": grade,
        "message": {"text": _message(text)},
        "locations": [{"physicalLocation": _location(document, first)}],
        "partialFingerprints": {FINGERPRINT: _fingerprint(first)},
    }


def _message(text: str) -> str:
    """Text in which nothing is a link or a placeholder (SARIF 2.1.0, 3.11.5 and 3.11.6)."""
    for sign, escaped in (("\\", "\\\\"), ("[", "\\["), ("]", "\\]"), ("{", "{{"), ("}", "}}")):
        text = text.replace(sign, escaped)
    return text


def _fingerprint(row: Row) -> str:
    """Of the sample's id, and which it is of several that share one; the line does not count."""
    what = f"{row['sample_id']}\0{row['occurrence']}"
    return hashlib.sha256(what.encode("utf-8", "backslashreplace")).hexdigest()


def _location(document: Document, row: Row) -> dict[str, Any]:
    path = PurePosixPath(document["data"]["path"])
    if path.suffix.lower() not in _FILES:
        # In a folder a sample is a file, and its id the path there: never one out of it.
        path /= "/".join(
            part for part in row["sample_id"].split("/") if part not in ("", "..", ".")
        )
    shown = quote(str(path), errors="replace")
    uri = f"file://{shown}" if path.is_absolute() else shown
    location: dict[str, Any] = {"artifactLocation": {"uri": uri}}
    if row["line"] >= 1:
        location["region"] = {"startLine": int(row["line"])}
    return location
