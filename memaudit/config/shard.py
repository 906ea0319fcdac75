"""Which share of a scan a machine does.

Knows how a share is written. Knows nothing of windows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memaudit.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """One share of a scan whose windows several machines extract, each on its own."""

    index: int
    """From 0."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Of ``i/n``, counted from 1. Raises UsageError for anything else."""
        found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"--shard {text}: give i/n, as 1/4 for the first of four")
        return cls(int(found[1]) - 1, int(found[2]))

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"
