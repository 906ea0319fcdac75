"""Samples of a baseline and of a run whose data may have changed since.

Knows counts and their sentences. Knows nothing of fingerprints, files or verdicts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Overlap:
    """Counts of the samples that both have, and that only one has."""

    both: int
    only_baseline: int
    """Samples removed from the data since the baseline."""
    only_run: int
    """Samples added to the data since the baseline."""
    extracted_only_baseline: int = 0
    """Samples removed from the data that the baseline lists as extracted."""

    @property
    def changed(self) -> bool:
        """True if samples were added or removed."""
        return self.only_baseline > 0 or self.only_run > 0

    @property
    def note(self) -> str:
        """State how the samples changed, in a sentence; empty if they did not."""
        if not self.changed:
            return ""
        leaks = self.extracted_only_baseline
        before = f" ({leaks:,} of them extracted before)" if leaks else ""
        return (
            f"The data changed since the baseline: {_samples(self.only_run)} added, "
            f"{self.only_baseline:,} removed{before}, {self.both:,} in both."
        )

    @property
    def fault(self) -> str:
        """State why the samples in both are too few to compare; empty if they are not.

        A run that lost more than half of the baseline's samples was probably given other data, or
        cuts it by another tokenizer. It would pass for lack of what was extracted before.
        """
        before = self.both + self.only_baseline
        if self.both and 2 * self.both >= before:
            return ""
        few = f"Only {self.both:,}" if self.both else "None"
        return (
            f"{few} of the baseline's {_samples(before)} can be compared, fewer than half: most "
            "of the data changed, or the tokenizer or chat template that cuts it; if that is "
            "intended, write a new baseline."
        )

    def split(self, new: int, new_only_run: int) -> str:
        """Divide a number of newly extracted samples, in brackets; empty if none changed sides.

        ``new_only_run``: how many of them were added to the data.
        """
        if not self.changed:
            return ""
        return (
            f" ({new - new_only_run:,} of {self.both:,} in both, {new_only_run:,} of "
            f"{self.only_run:,} added to the data; {self.only_baseline:,} removed)"
        )


def _samples(number: int) -> str:
    return f"{number:,} sample{'' if number == 1 else 's'}"
