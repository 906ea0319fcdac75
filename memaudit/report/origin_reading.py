"""Check the counts of windows known before the fine-tuning against the table of samples.

Knows the section ``reference`` of ``report.json`` and its columns in ``samples.csv``. Knows nothing
of formats. N: scored rows of one role.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from memaudit.report.model import Origin, Report
from memaudit.report.reading import column, figures, model_attacks
from memaudit.report.samples_csv import COLUMNS
from memaudit.score.origin import ANY
from memaudit.score.stats import Bools, Floats

ON_REFERENCE = tuple(name for name in COLUMNS if name.startswith("reference_exact_"))
"""Columns with 1 where an attack extracts a window from the reference."""


def origins_agree(report: Report, rows: pd.DataFrame, part: Literal["data", "controls"]) -> bool:
    """True if the table's counts are those of the section, over the scored rows of one role."""
    section = report.reference
    origins: tuple[Origin, ...] = () if section is None else getattr(section, part) or ()
    asked = [attack.attack for attack in model_attacks(report)]
    expected = report.reference is not None and (part == "data" or len(rows) > 0)
    if [origin.attack for origin in origins] != ([*asked, ANY] if expected else []):
        return False
    columns = {attack: f"reference_{column('exact', attack)}" for attack in asked if expected}
    unused = [name for name in ON_REFERENCE if name not in columns.values()]
    both: dict[str, Floats] = {
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
    return all(_counts(*hit[origin.attack]) == _reported(origin) for origin in origins)


def _counts(target: Bools, reference: Bools) -> tuple[int, ...]:
    fates = (target & reference, target & ~reference, ~target & reference, ~target & ~reference)
    return (*(int(fate.sum()) for fate in fates), len(target))


def _reported(origin: Origin) -> tuple[int, ...]:
    leaked = origin.leaked
    return origin.known_before, leaked.k, origin.forgotten, origin.neither, leaked.n
