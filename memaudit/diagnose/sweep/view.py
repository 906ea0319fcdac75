"""Windows of a finished run and their rates, as every part of the report on a sweep needs them.

Knows arrays, clusters and curves. Asks no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memaudit.diagnose.subject import Part
from memaudit.report.curves import Axis, Line
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Resamples
from memaudit.score.stats import Bools

SHARE = Axis("share of windows", low=0.0)
"""Axis of rates."""
_NOT_SIGNIFICANT = 0.05
"""p-value from which a difference counts as none."""


@dataclass(frozen=True, eq=False)
class View:
    """Windows of the run, and how intervals are made."""

    parts: Mapping[str, Part]
    """By role: ``data`` and, if there are any, ``controls``."""
    resamples: Resamples

    @property
    def data(self) -> Part:
        """Audited windows."""
        return self.parts["data"]

    @property
    def controls(self) -> Part | None:
        """Controls, if there are any."""
        return self.parts.get("controls")

    def rate(self, part: Part, hits: Bools) -> Estimate:
        """Return the share of hits (N,) among the windows of a part."""
        return self.resamples.rate(hits, part.clusters)

    def rates(self, hits: str = "none") -> dict[str, Estimate]:
        """Return the exact rate of an attack by side."""
        return {role: self.rate(part, part.exact(hits)) for role, part in self.parts.items()}


def thinned(values: Sequence[int], limit: int) -> list[int]:
    """Return at most ``limit`` of the values, including the first and the last."""
    if len(values) <= limit:
        return list(values)
    places = np.unique(np.linspace(0, len(values) - 1, limit).round().astype(int))
    return [values[place] for place in places]


def with_few_bars(line: Line, barred: Sequence[bool]) -> Line:
    """Return the curve with intervals at the barred points only, so that it stays legible."""
    low, high = (
        [end if bar else math.nan for end, bar in zip(side or line.y, barred, strict=True)]
        for side in (line.low, line.high)
    )
    return replace(line, low=low, high=high)


def differs_from_zero(change: Estimate, p: float | None = None) -> bool:
    """Return True if the change's interval excludes 0 and its p-value, if any, agrees.

    A bootstrap excludes 0 too easily when few windows differ, all in the same direction.
    """
    if p is not None and p >= _NOT_SIGNIFICANT:
        return False
    return change.above(0) or change.below(0)
