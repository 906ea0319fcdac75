"""One machine's share of a scan.

Knows how a share is written. Knows nothing of windows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memaudit.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """One share of a scan that several machines split, each extracting its own windows."""

    index: int
    """From 0."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse ``i/n``, counted from 1. Raises UsageError for anything else."""
        match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--shard {text}: give i/n, such as 1/4 for the first of four")
        return cls(int(match[1]) - 1, int(match[2]))

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"
