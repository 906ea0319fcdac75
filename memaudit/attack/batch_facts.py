"""How many windows went through at a time, and what memory had to do with it: plain figures, no
torch, for the report.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchFacts:
    """Windows per pass of one kind of work."""

    planned: int
    """As asked, or as was chosen from the memory that was free."""
    smallest: int
    """The fewest, while memory was short."""
    final: int
    """At the end: sizes grow again while passes go through."""
    shortages: int
    """How often memory ran out and the size was halved."""
    recomputed: bool
    """Whether what each block of the target gave was computed anew on the way back."""

    @property
    def remark(self) -> str:
        """What memory did to the planned size; empty where it did nothing."""
        parts = []
        if self.shortages:
            times = "once" if self.shortages == 1 else f"{self.shortages:,} times"
            parts.append(
                f"planned {self.planned:,}, halved {times} for want of memory, "
                f"to {self.smallest:,} at the smallest"
            )
        if self.recomputed:
            parts.append("activations computed anew on the way back")
        return "; ".join(parts)
