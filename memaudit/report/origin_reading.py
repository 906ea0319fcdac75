"""A finished run with a reference, asked: where what came out comes from, window by window.

Knows the section ``reference`` of ``report.json`` and its columns in ``samples.csv`` as they are
read back. Knows nothing of formats. N stands for the rows of one role that were scored.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from memaudit.report.reading import (
    column,
    figure,
    figures,
    interval_text,
    rate_text,
)
from memaudit.report.report_json import Document
from memaudit.report.samples_csv import COLUMNS
from memaudit.score.estimate import MISSING, number
from memaudit.score.origin import ANY
from memaudit.score.stats import Bools

HEADS = ("attack", "known before", "leaked", "forgotten", "neither", "share", "interval")
MORE_HEADS = ("p", "NLL before", "NLL now", "change", "interval of the change")

ON_REFERENCE = tuple(name for name in COLUMNS if name.startswith("reference_exact_"))
"""Columns that say whether an attack extracts a window from the reference."""
ORIGIN_LEGEND = (
    "known before: windows that come out of the reference too; leaked: by the fine-tuning, out of "
    "this model alone; forgotten: out of the reference alone. share: of the windows, those leaked; "
    "interval: the outer ends of the exact and the clustered one. p: of leaked against forgotten, "
    "the larger of two paired tests. NLL: mean over the suffixes, nats/token; change: with its "
    "interval over clusters."
)


def origin_rows(document: Document, part: str = "data") -> list[list[str]]:
    """A row for each attack on both models, as `HEADS` and `MORE_HEADS` say.

    part: ``data`` or ``controls``. Of one attack alone the row of all together would be the same,
    and is left out. Empty where there is no reference, or there are no controls.
    """
    found = _found(document, part)
    shown = found[:-1] if len(found) == 2 else found
    return [_row(origin) for origin in shown]


def _found(document: Document, part: str) -> list[Document]:
    section = document["reference"]
    found: list[Document] | None = section[part] if section is not None else None
    return found or []


def _row(origin: Document) -> list[str]:
    leaked, nll = origin["leaked"], origin["suffix_nll"]
    counts = [origin["known_before"], leaked["k"], origin["forgotten"], origin["neither"]]
    cells = [origin["attack"], *map(str, counts)]
    cells += [rate_text(leaked), interval_text(leaked["interval"])]
    p = max(figure(origin["p_value"]), figure(origin["clustered_p_value"]))
    cells += [MISSING if math.isnan(p) else f"{p:.2g}"]
    cells += [number(figure(nll["reference"])), number(figure(nll["target"]))]
    low, high = figure(nll["interval"]["low"]), figure(nll["interval"]["high"])
    return [*cells, _signed(figure(nll["change"])), f"{_signed(low)} to {_signed(high)}"]


def _signed(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else "-"


def origins_agree(document: Document, rows: pd.DataFrame, part: str) -> bool:
    """Whether the table counts what the section says, over the scored rows of one role.

    part: ``data`` or ``controls``.
    """
    found = _found(document, part)
    asked = [one["attack"] for one in document["attacks"] if one["attack"] != "copy"]
    there = document["reference"] is not None and (part == "data" or len(rows) > 0)
    if [origin["attack"] for origin in found] != ([*asked, ANY] if there else []):
        return False
    columns = {attack: f"reference_{column('exact', attack)}" for attack in asked if there}
    others = [name for name in ON_REFERENCE if name not in columns.values()]
    both = {
        attack: np.array([figures(rows, column("exact", attack)), figures(rows, shown)])
        for attack, shown in columns.items()
    }
    if any(rows[name].notna().any() for name in others) or not all(
        np.isfinite(pair).all() for pair in both.values()
    ):
        return False
    hit = {attack: pair == 1 for attack, pair in both.items()}
    if hit:
        hit[ANY] = np.any(list(hit.values()), axis=0)
    return all(_counts(*hit[one["attack"]]) == _told(one) for one in found)


def _counts(target: Bools, reference: Bools) -> tuple[int, ...]:
    fates = (target & reference, target & ~reference, ~target & reference, ~target & ~reference)
    return (*(int(fate.sum()) for fate in fates), len(target))


def _told(origin: Document) -> tuple[int, ...]:
    leaked = origin["leaked"]
    told = (origin["known_before"], leaked["k"], origin["forgotten"], origin["neither"])
    return (*told, leaked["n"])
