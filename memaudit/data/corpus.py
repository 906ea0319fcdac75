"""A file's windows with their clusters and folds.

Knows the windows and how they are split. Knows nothing of what is done with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from memaudit.data.own_tokens import TemplateTokens
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
    template: TemplateTokens
    """Tokens of each window that show nothing about its record."""

    @property
    def is_own(self) -> NDArray[np.bool_]:
        """(N,) windows that are not template alone."""
        return np.asarray(self.template.suffix < self.windows.suffix_ids.shape[1])

    @cached_property
    def first_rows(self) -> NDArray[np.int64]:
        """(M,) row of the first window of each sample."""
        return np.unique(self.windows.sample, return_index=True)[1]

    @cached_property
    def sample(self) -> NDArray[np.int64]:
        """(N,) number, from 0 to M-1, of each window's sample among those with a window."""
        return np.unique(self.windows.sample, return_inverse=True)[1]

    @cached_property
    def sample_clusters(self) -> NDArray[np.int64]:
        """(M,) cluster of each sample."""
        return self.clusters[self.first_rows]

    @cached_property
    def windows_each(self) -> NDArray[np.int64]:
        """(M,) windows of each sample."""
        return np.bincount(self.sample, minlength=len(self.first_rows))

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """(M,) samples with a window that is not template alone: those that can be extracted."""
        return self._sums(self.is_own) > 0

    @cached_property
    def audited_tokens(self) -> NDArray[np.int64]:
        """(M,) tokens of each sample that are in a suffix, each counted once."""
        return self._sums(self.windows.new_tokens)

    @cached_property
    def template_tokens(self) -> NDArray[np.int64]:
        """(M,) of them, those that are template or repeat what stands before them."""
        return self._sums(self.template.new)

    def audited_ids(self) -> list[NDArray[np.int32]]:
        """Return the audited tokens of each sample, each once and in order."""
        pieces: list[list[NDArray[np.int32]]] = [[] for _ in self.first_rows]
        windows = self.windows
        for row in np.lexsort((windows.window, self.sample)).tolist():
            new = windows.suffix_ids[row, windows.suffix_ids.shape[1] - windows.new_tokens[row] :]
            pieces[self.sample[row]].append(new)
        return [np.concatenate(piece) for piece in pieces]

    def _sums(self, values: NDArray[np.generic]) -> NDArray[np.int64]:
        """Return the sum of whole numbers (N,) over each sample's windows: (M,)."""
        sums = np.bincount(self.sample, weights=values, minlength=len(self.first_rows))
        return sums.astype(np.int64)


@dataclass(frozen=True)
class FoldSizes:
    """Windows in each part of one fold."""

    fold: int
    fit: int
    select: int
    audit: int
