"""Windows known before the fine-tuning or leaked by it, read from a finished run.

Knows the section ``reference`` of ``report.json`` and its columns in ``samples.csv``. Knows nothing
of formats. N: scored rows of one role.
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
    model_attacks,
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
"""Columns with 1 where an attack extracts a window from the reference."""
ORIGIN_LEGEND = (
    "known before: windows also extracted from the reference; leaked: by the fine-tuning, "
    "extracted "
    "from this model alone; forgotten: extracted from the reference alone. share: leaked windows, "
    "of "
    "all; interval: the outer ends of the exact and clustered intervals. p: leaked against "
    "forgotten, the larger of two paired tests. NLL: mean over the suffixes, nats/token; change: "
    "with its interval over clusters."
)


def origin_rows(document: Document, part: str = "data") -> list[list[str]]:
    """Return a row for each attack on both models, with `HEADS` and `MORE_HEADS`.

    part: ``data`` or ``controls``. With one attack, the equal row of all attacks together is left
    out. Empty without a reference or without controls.
    """
    origins = _origins(document, part)
    return [_row(origin) for origin in (origins[:-1] if len(origins) == 2 else origins)]


def _origins(document: Document, part: str) -> list[Document]:
    section = document["reference"]
    origins: list[Document] | None = section[part] if section is not None else None
    return origins or []


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
    """True if the table's counts are those of the section, over the scored rows of one role.

    part: ``data`` or ``controls``.
    """
    origins = _origins(document, part)
    asked = [attack["attack"] for attack in model_attacks(document)]
    expected = document["reference"] is not None and (part == "data" or len(rows) > 0)
    if [origin["attack"] for origin in origins] != ([*asked, ANY] if expected else []):
        return False
    columns = {attack: f"reference_{column('exact', attack)}" for attack in asked if expected}
    unused = [name for name in ON_REFERENCE if name not in columns.values()]
    both = {
        attack: np.array([figures(rows, column("exact", attack)), figures(rows, name)])
        for attack, name in columns.items()
    }
    if any(rows[name].notna().any() for name in unused) or not all(
        np.isfinite(pair).all() for pair in both.values()
    ):
        return False
    hit = {attack: pair == 1 for attack, pair in both.items()}
    if hit:
        hit[ANY] = np.any(list(hit.values()), axis=0)
    return all(_counts(*hit[origin["attack"]]) == _reported(origin) for origin in origins)


def _counts(target: Bools, reference: Bools) -> tuple[int, ...]:
    fates = (target & reference, target & ~reference, ~target & reference, ~target & ~reference)
    return (*(int(fate.sum()) for fate in fates), len(target))


def _reported(origin: Document) -> tuple[int, ...]:
    leaked = origin["leaked"]
    known, forgotten, neither = (origin[key] for key in ("known_before", "forgotten", "neither"))
    return known, leaked["k"], forgotten, neither, leaked["n"]
