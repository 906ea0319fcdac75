"""Which windows a sweep asks a model about, where it cannot ask about all.

Knows what a finished run found of each window. What comes out is rare, so windows are drawn by
kind, and count for as many as they stand for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memaudit.diagnose.subject import Part, draw
from memaudit.diagnose.sweep.figures import Drawn
from memaudit.score.stats import Ints

_LEAST_BY_KIND = 30
"""Windows below which a draw does not tell kinds apart: each kind would have too few. A number of
windows, so it is none of the thresholds on clusters in `score.resample`."""


@dataclass(frozen=True, eq=False)
class DrawnSides:
    """What was drawn of the data, and of the controls where there are any."""

    data: Drawn
    controls: Drawn | None


def draw_windows(part: Part, most: int, rng: np.random.Generator) -> Drawn:
    """All windows, or at most so many: a third each, as far as there are so many, of those that
    ``none`` extracts and those that another attack does, and the rest of all others.
    """
    kinds = _kinds(part)
    if len(part) <= most or most < _LEAST_BY_KIND:
        kinds = np.zeros(len(part), dtype=np.int64)
    there, kinds, sizes = np.unique(kinds, return_inverse=True, return_counts=True)
    counts = _counts(there, sizes, most)
    rows = np.sort(
        np.concatenate([draw(kinds == kind, counts[kind], rng) for kind in range(len(there))])
    )
    return Drawn(rows, part.clusters[rows], kinds[rows], sizes)


def _kinds(part: Part) -> Ints:
    """(N,) 0 extracted by ``none``, 1 by another attack only, 2 by none of them."""
    return np.asarray(np.where(part.extracted, 0, np.where(part.hidden, 1, 2)), dtype=np.int64)


def _counts(there: Ints, sizes: Ints, most: int) -> list[int]:
    """How many windows of each kind there is are drawn: (K,)."""
    counts = np.where(there == 2, 0, np.minimum(sizes, most // 3))
    if len(there) == 1:
        counts[:] = 0
    for kind in range(len(there))[::-1]:
        counts[kind] += min(most - counts.sum(), sizes[kind] - counts[kind])
    return [int(count) for count in counts]


def drawn_words(drawn: Drawn, role: str) -> str:
    """``all 1,305 controls``, ``1,000 of 5,938 windows``."""
    total = int(drawn.sizes.sum())
    return f"all {total:,} {role}" if drawn.is_all else f"{len(drawn.rows):,} of {total:,} {role}"
