"""SARIF 2.1.0: a result for each extracted sample, at the data file and line, without any text.

Knows SARIF and its readers' limits. Leaves out samples that only ``copy`` gets: it never queries
the model.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pandas as pd

from memaudit.config.settings import attack_label
from memaudit.report.model import Report
from memaudit.report.reading import (
    Row,
    extracted,
    has_reference,
    hits,
    is_hit,
    left_out_reason,
    model_attacks,
    scored,
    void_reason,
    worst_rows,
)
from memaudit.report.wording import count, json_text, neutral, shorten

MOST_RESULTS = 25_000
"""Results of a run: GitHub's code scanning refuses a file with more."""
FINGERPRINT = "memauditSample/v1"
"""Name of the hash that identifies a sample even if its line has moved."""
_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json"
_FILES = (
    *(".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet", ".xlsx"),
    *(".gz", ".bz2", ".xz", ".zst", ".zip"),
)
"""Endings of data files; anything else is a folder of files."""
_LONGEST_ID = 200
_PLAIN, _PROMPTED = "extracted-by-prefix", "extracted-by-prompt"
_STEPS = (
    "Find the sample at the file and line of this result, and decide if its text may come out.",
    "If not, remove it from the training data, or keep one copy of repeated texts and train for "
    "fewer epochs; then train again.",
    "Scan the new model, and list what is newly extracted with: memaudit compare BASELINE RUN",
)
"""What to do about a result, in order."""


class _Rule(NamedTuple):
    """A kind of result."""

    name: str
    level: str
    short: str
    full: str
    more: str
    """What the result means, for the help."""

    def descriptor(self) -> dict[str, Any]:
        """Return the reporting descriptor (SARIF 2.1.0, 3.49)."""
        numbered = [f"{number}. {step}" for number, step in enumerate(_STEPS, 1)]
        help_text = f"{self.full} {self.more}"
        return {
            "id": self.name,
            "shortDescription": {"text": self.short},
            "fullDescription": {"text": self.full},
            "defaultConfiguration": {"level": self.level},
            "help": {
                "text": "\n".join([help_text, "What to do:", *numbered]),
                "markdown": "\n".join([help_text, "", "**What to do**", "", *numbered]),
            },
        }


_RULES = (
    _Rule(
        _PLAIN,
        "error",
        "Sample extracted by its own beginning.",
        "The model continues this sample word for word when given its beginning.",
        "Whoever has the model and the beginning gets the rest; no attack had to be trained.",
    ),
    _Rule(
        _PROMPTED,
        "warning",
        "Sample extracted with a prompt and its own beginning.",
        "The model continues this sample word for word when given a prompt and its beginning.",
        "The beginning alone does not bring it out; a prompt that was made for this audit does.",
    ),
)


def to_sarif(report: Report, windows: pd.DataFrame) -> str:
    """Return the log, worst samples first; a notification counts those over the limit."""
    by_sample = _extracted(report, windows)
    version = neutral(report.tool.version)
    rules = [rule.descriptor() for rule in _RULES]
    run: dict[str, Any] = {
        "tool": {"driver": {"name": "memaudit", "version": version, "rules": rules}},
        "invocations": [_invocation(report, len(by_sample))],
        "results": [_result(report, windows) for windows in by_sample[:MOST_RESULTS]],
        "columnKind": "unicodeCodePoints",
        "properties": {
            "model": neutral(report.target.name),
            "extractedSamples": len(by_sample),
            "headline": [neutral(sentence) for sentence in report.headline],
        },
    }
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json_text(log, indent=1)


def _invocation(report: Report, extracted: int) -> dict[str, Any]:
    """Return a successful invocation, whatever the gates say, with notes on limits and validity.

    In a void run, the absence of results means nothing.
    """
    invocation: dict[str, Any] = {"executionSuccessful": True, "exitCode": report.exit_code}
    notifications = []
    if extracted > MOST_RESULTS:
        text = (
            f"Only the worst {MOST_RESULTS:,} of {extracted:,} extracted samples are listed; "
            "samples.csv holds all of them."
        )
        notifications.append({"level": "warning", "message": {"text": text}})
    if reason := void_reason(report):
        text = f"This run means nothing. {neutral(reason)}"
        notifications.append({"level": "error", "message": {"text": _message(text)}})
    if reason := left_out_reason(report):
        notifications.append({"level": "warning", "message": {"text": _message(neutral(reason))}})
    if notifications:
        invocation["toolExecutionNotifications"] = notifications
    return invocation


def _extracted(report: Report, windows: pd.DataFrame) -> list[list[Row]]:
    """Return the extracted windows of each extracted sample of the data, worst sample first."""
    rows = scored(windows, "data")
    rows = rows[np.any(hits(report, rows), axis=0)]
    rows = rows.iloc[worst_rows(report, rows, len(rows))]
    places = windows[windows["role"] == "data"][["line", "sample_id"]].drop_duplicates()
    places = places.sort_values("line")
    occurrence = dict(zip(_keys(places), places.groupby("sample_id").cumcount(), strict=True))
    by_sample: dict[tuple[int, str], list[Row]] = {}
    leaked = extracted(report, rows).leaked.tolist()
    for key, row, since in zip(_keys(rows), rows.to_dict("records"), leaked, strict=True):
        more = {"occurrence": occurrence[key], "leaked": since}
        by_sample.setdefault(key, []).append({**row, **more})
    return list(by_sample.values())


def _keys(rows: pd.DataFrame) -> list[tuple[int, str]]:
    """Return line and id of each row, which identify samples."""
    return list(zip(rows["line"].tolist(), rows["sample_id"].tolist(), strict=True))


def _result(report: Report, windows: list[Row]) -> dict[str, Any]:
    """Return a sample's result. ``windows``: its extracted rows, at least one."""
    first = windows[0]
    number = 0 if any(is_hit(row, "none") for row in windows) else 1
    rule = _RULES[number]
    sample = shorten(neutral(first["sample_id"]), _LONGEST_ID)
    numbers = ", ".join(sorted((str(row["window"]) for row in windows[:20]), key=int))
    where = f"{count(len(windows), 'window')}: {numbers}{', …' if len(windows) > 20 else ''}"
    ran = [attack.attack for attack in model_attacks(report)]
    by = ", ".join(
        attack_label(attack) for attack in ran if any(is_hit(row, attack) for row in windows)
    )
    origin = ""
    if has_reference(report):
        leaked = sum(row["leaked"] for row in windows)
        origin = f" The fine-tuning leaked {leaked:,} of them; the others were known before."
    text = f"Sample {sample} comes out word for word. Extracted by {by} ({where}).{origin}"
    return {
        "ruleId": rule.name,
        "ruleIndex": number,
        "level": rule.level,
        "message": {"text": _message(text)},
        "locations": [{"physicalLocation": _location(report, first)}],
        "partialFingerprints": {FINGERPRINT: _fingerprint(first)},
    }


def _message(text: str) -> str:
    """Escape text so that nothing is a link or a placeholder (SARIF 2.1.0, 3.11.5 and 3.11.6)."""
    for sign, escaped in (("\\", "\\\\"), ("[", "\\["), ("]", "\\]"), ("{", "{{"), ("}", "}}")):
        text = text.replace(sign, escaped)
    return text


def _fingerprint(row: Row) -> str:
    """Hash the sample's id and its number among samples with that id; the line does not count."""
    what = f"{row['sample_id']}\0{row['occurrence']}"
    return hashlib.sha256(what.encode("utf-8", "backslashreplace")).hexdigest()


def _location(report: Report, row: Row) -> dict[str, Any]:
    path = PurePosixPath(report.data.path)
    if path.suffix.lower() not in _FILES:
        # In a folder a sample is a file, and its id the path inside: never one that leaves it.
        path /= "/".join(
            part for part in row["sample_id"].split("/") if part not in ("", "..", ".")
        )
    quoted = quote(str(path), errors="replace")
    uri = f"file://{quoted}" if path.is_absolute() else quoted
    location: dict[str, Any] = {"artifactLocation": {"uri": uri}}
    if row["line"] >= 1:
        location["region"] = {"startLine": int(row["line"])}
    return location
