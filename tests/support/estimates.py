"""Parts of estimates that a test needs: each is asserted to be known."""

from __future__ import annotations

from memaudit.score.estimate import Estimate


def known(figure: float | None) -> float:
    """Return a figure that must not be missing."""
    assert figure is not None
    return figure


def ends(estimate: Estimate) -> tuple[float, float]:
    """Return the low and the high end of an interval."""
    return known(estimate.low), known(estimate.high)


def width(estimate: Estimate) -> float:
    """Return the distance between the ends of an interval."""
    low, high = ends(estimate)
    return high - low
