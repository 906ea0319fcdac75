"""What has been done of the attacks, kept under names for a run that goes on later.

Knows how an extraction is kept: no token of an audited suffix is, where the model said it. Knows
nothing of files: a Journal keeps named arrays, somewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from memaudit.attack.extraction import Extraction

Arrays = Mapping[str, NDArray[np.generic]]

AS_THE_SUFFIX = -2
"""Stands where the continuation has the suffix's own token: what came out is not kept again."""


class Entry(NamedTuple):
    """One piece of finished work."""

    arrays: Arrays
    note: str = ""
    """A word on it, without audited text."""


class Journal(Protocol):
    """Keeps what is done, under names, for a run that goes on later."""

    def read(self, name: str) -> Entry | None:
        """What was kept under the name, if anything."""

    def keep(self, name: str, entry: Entry) -> None:
        """Keep it from now on, in place of what was there."""


class NoJournal:
    """Keeps nothing."""

    def read(self, name: str) -> Entry | None:
        """Always None."""
        return None

    def keep(self, name: str, entry: Entry) -> None:
        """Forget it."""


def from_extraction(found: Extraction, suffix_ids: NDArray[np.int32]) -> Entry:
    """An extraction of windows whose suffixes (N,S) are known whenever it is read."""
    said = np.where(found.continuation_ids == suffix_ids, AS_THE_SUFFIX, found.continuation_ids)
    return Entry({"said": said, "suffix_nll": found.suffix_nll, "log_p_z": found.log_p_z})


def to_extraction(entry: Entry, suffix_ids: NDArray[np.int32]) -> Extraction | None:
    """The extraction again; None where the entry is none of these windows."""
    said, nll, log_p_z = (entry.arrays.get(name) for name in ("said", "suffix_nll", "log_p_z"))
    rows = len(suffix_ids)
    if not (
        _is_like(said, np.dtype(np.int32), suffix_ids.shape)
        and _is_like(nll, np.dtype(np.float64), (rows,))
        and _is_like(log_p_z, np.dtype(np.float64), (rows,))
    ):
        return None
    tokens = np.asarray(said, np.int32)
    # A probability may come out a rounding above 1; no figure is NaN.
    likely = (np.asarray(nll, float) >= 0).all() and (np.asarray(log_p_z, float) <= 1e-6).all()
    if tokens.min(initial=0) < AS_THE_SUFFIX or not likely:
        return None
    continuation = np.where(tokens == AS_THE_SUFFIX, suffix_ids, tokens)
    return Extraction(continuation, np.asarray(nll, float), np.asarray(log_p_z, float))


def _is_like(
    array: NDArray[np.generic] | None, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> TypeGuard[NDArray[np.generic]]:
    return array is not None and array.dtype == dtype and array.shape == shape
