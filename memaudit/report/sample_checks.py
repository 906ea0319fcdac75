"""Check ``samples.csv`` against ``windows.csv``: each column that follows from the windows.

Knows both tables and the score room. Trusts ``windows.csv``. Likelihoods have two digits in both
tables, so they are checked up to that rounding. N: scored windows of one role; M: their samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from memaudit.report.columns import OWN
from memaudit.report.reading import column, figures
from memaudit.score.samples import Grouping, best_of, score_samples
from memaudit.score.scores import WindowScores
from memaudit.score.stats import Floats
from memaudit.score.summary import ANY

_SHARED = ("schema_version", "role", "sample_id", "line", "cluster", "fold", "status")
"""Columns of a sample's row and of its first window's with the same content; so are those passed
through."""
CLOSE = 1e-6
"""Largest difference between equal figures; libraries differ in the last digits."""


class ImpossibleTableError(ValueError):
    """Rows of a table that no scan writes; the message says which."""


Check = tuple[str, Any, Any]
"""Name of a figure, its value in the report, and the value that the tables give."""


def check_records(windows: pd.DataFrame, samples: pd.DataFrame) -> None:
    """Raise ImpossibleTableError unless both tables hold the same records in the same order."""
    skipped = windows["status"] != "scored"
    heads = windows[skipped | (windows["window"] == 0).fillna(False)].reset_index(drop=True)
    shared = [name for name in samples.columns if name in _SHARED or name not in OWN]
    passed = [name for name in windows.columns if name not in OWN]
    same = passed == [name for name in shared if name not in OWN] and all(
        heads[name].equals(samples[name]) for name in shared
    )
    reasons = (table["reason"][table["status"] != "scored"] for table in (heads, samples))
    if not same or not next(reasons).equals(next(reasons)):
        raise ImpossibleTableError("samples.csv and windows.csv do not hold the same samples")


def check_samples(
    rows: pd.DataFrame,
    samples: pd.DataFrame,
    groups: Grouping,
    attacks: Mapping[Any, WindowScores],
) -> Iterator[Check]:
    """Yield the columns of a role's scored samples that follow from its windows ``rows``."""
    count = len(samples)
    windows = np.bincount(groups.sample, minlength=count)
    audited = np.bincount(groups.sample, weights=groups.new_tokens, minlength=count)
    yield "windows", samples["windows"].tolist(), windows.tolist()
    yield "audited_tokens", samples["audited_tokens"].tolist(), audited.astype(int).tolist()
    yield "tokens", bool((audited <= figures(samples, "tokens")).all()), True
    low, high = _template_bounds(rows, groups)
    template = figures(samples, "template_tokens")
    yield "template_tokens", bool(((low <= template) & (template <= high)).all()), True
    yield "reason", (samples["reason"] == "").tolist(), groups.counted.tolist()
    alone = windows == 1
    of_windows = rows["categories"].to_numpy()[alone[groups.sample]].tolist()
    yield "categories", samples["categories"][alone].tolist(), of_windows
    for attack, scores in attacks.items():
        yield from _check_scores(samples, groups, attack, scores)
    asked = [score_samples(scores, groups) for name, scores in attacks.items() if name != "copy"]
    for name in ("exact", "extracted"):
        due = np.full(count, math.nan)
        if asked:
            due[:] = getattr(best_of(asked), name)
            due[~groups.counted & (name == "extracted")] = math.nan
        equal = np.array_equal(figures(samples, column(name, ANY)), due, equal_nan=True)
        yield column(name, ANY), equal, True


def _check_scores(
    samples: pd.DataFrame, groups: Grouping, attack: str, scores: WindowScores
) -> Iterator[Check]:
    due = score_samples(scores, groups)
    values: dict[str, Floats] = {
        "exact": due.exact.astype(np.float64),
        "extracted": np.where(groups.counted, due.extracted, math.nan),
        "windows_exact": due.windows_exact.astype(np.float64),
        "fractional": due.fractional,
        "longest_run": due.longest_run.astype(np.float64),
    }
    for name, figure in values.items():
        recorded = figures(samples, column(name, attack))
        equal = np.isclose(recorded, figure, rtol=CLOSE, atol=CLOSE, equal_nan=True)
        yield column(name, attack), bool(equal.all()), True
    recorded = figures(samples, column("suffix_nll", attack))
    is_near = _near(recorded, due.suffix_nll, mean_errors(scores, groups))
    yield column("suffix_nll", attack), is_near, True


def _template_bounds(rows: pd.DataFrame, groups: Grouping) -> tuple[Floats, Floats]:
    """Return the least and the most template that the new tokens of each sample can hold: (M,)."""
    template, new = figures(rows, "template_tokens"), groups.new_tokens
    least = np.maximum(0, template - (figures(rows, "suffix_tokens") - new))
    both = (least, np.minimum(template, new))
    low, high = (np.bincount(groups.sample, weights=bound) for bound in both)
    return low.astype(np.float64), high.astype(np.float64)


def _near(recorded: Floats, due: Floats, errors: Floats) -> bool:
    """True if likelihoods (M,) are those of the windows, up to the rounding of both."""
    finite = np.isfinite(due)
    values = (part[finite].tolist() for part in (recorded, due, errors))
    return bool((np.isfinite(recorded) == finite).all()) and all(
        abs(figure - mean) <= rounding_error(figure) + error
        for figure, mean, error in zip(*values, strict=True)
    )


def rounding_error(rounded: float) -> float:
    """Return the largest rounding error of a likelihood in the table, and of its median."""
    digits = math.floor(math.log10(abs(rounded))) if rounded else 0
    return 0.02 + (0.05 * 10.0**digits if digits >= 0 else 0.0)


def mean_errors(scores: WindowScores, groups: Grouping) -> Floats:
    """Return the largest error of the mean likelihood of each sample: (M,)."""
    nll = np.nan_to_num(scores.suffix_nll, posinf=0.0)
    each = np.array([rounding_error(value) for value in nll.tolist()])
    return score_samples(replace(scores, suffix_nll=each), groups).suffix_nll
