"""A file's windows with their clusters and folds.

Knows the windows and how they are split. Knows nothing of what is done with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memaudit.data.samples import DataSummary
from memaudit.data.windows import Windows


@dataclass(frozen=True, eq=False)
class Corpus:
    """The windows of one file, clustered and split: the data, or the controls."""

    summary: DataSummary
    """The file, its hash and its rows."""
    windows: Windows
    """N windows."""
    clusters: NDArray[np.int64]
    """(N,) cluster of near-duplicates, numbered over data and controls together."""
    folds: NDArray[np.int64]
    """(N,) fold whose prompts score the window."""


@dataclass(frozen=True)
class FoldSizes:
    """Windows in each part of one fold."""

    fold: int
    fit: int
    select: int
    audit: int
