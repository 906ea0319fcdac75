"""What a campaign tells whoever runs it: its progress, and finished work stored under names.

Knows the form of a piece of work, and nothing of what is in it. Loads no torch, so that a run can
be checked before the model is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]
Advance = Callable[[int], None]
"""Called with each number of windows newly done."""


class Progress(Protocol):
    """Progress display of the stages."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """Open a stage of ``total`` windows; call its function with each number newly done."""


class Entry(NamedTuple):
    """One piece of finished work."""

    arrays: Arrays
    note: str = ""
    """Remark without audited text."""


class Journal(Protocol):
    """Store of finished work, by name."""

    def read(self, name: str) -> Entry | None:
        """Return the entry of this name, or None."""

    def keep(self, name: str, entry: Entry) -> None:
        """Store the entry; replace an earlier one of this name."""


class NoJournal:
    """A journal that stores nothing."""

    def read(self, name: str) -> Entry | None:
        """Return None."""
        return None

    def keep(self, name: str, entry: Entry) -> None:
        """Do nothing."""
