"""Check the counts of windows known before the fine-tuning against the table of samples.

Knows the section ``reference`` of ``report.json`` and its columns in ``samples.csv``. Knows nothing
of formats. N: scored rows of one role.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from memaudit.report.reading import column, figures, model_attacks
from memaudit.report.report_json import Document
from memaudit.report.samples_csv import COLUMNS
from memaudit.score.origin import ANY
from memaudit.score.stats import Bools

ON_REFERENCE = tuple(name for name in COLUMNS if name.startswith("reference_exact_"))
"""Columns with 1 where an attack extracts a window from the reference."""


def _origins(document: Document, part: str) -> list[Document]:
    section = document["reference"]
    origins: list[Document] | None = section[part] if section is not None else None
    return origins or []


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
