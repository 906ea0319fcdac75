"""What each gate on an attack judges: a figure, the upper end of what it may be, and the words.

Knows attack summaries and intervals. Knows nothing of settings, nor of what is allowed.

Every upper end is the larger of two: one that holds for any number of windows, and one that takes
near-duplicate clusters as what was drawn. So it stays wide where there is little data, also where
the bootstrap over clusters is blind because all of them say the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from memaudit.score.scores import AttackSummary, Rate
from memaudit.score.stats import agreeing, bounded_mean, clopper_pearson, difference

_MOST_WINDOWS = 10**9
"""Where the search for the number of windows that would decide gives up."""


@dataclass(frozen=True)
class Measure:
    """One figure of one attack."""

    attack: str
    estimate: float
    """NaN where nothing was scored."""
    bound: float
    """Upper end of its interval."""
    confidence: float
    """Of that interval."""
    what: str
    """Noun: ``rate``, ``share`` or ``lift``."""
    found: str
    """The figure in words, the beginning of a sentence."""
    unit: str
    """Of 100 times the figure: ``%`` or ``points``."""
    remark: str = ""
    """What a reader has to know besides, the end of a sentence."""

    def said(self, figure: float) -> str:
        """A figure of this kind as it is read."""
        return f"{100 * figure:.3g} {self.unit}"


def exact_measure(summary: AttackSummary) -> Measure:
    """The exact rate. Upper ends: Clopper–Pearson, and the bootstrap over clusters."""
    rate = summary.exact
    none = summary.controls_exact is None
    return Measure(
        attack=summary.attack,
        estimate=rate.estimate,
        bound=max(rate.interval.high, rate.clustered.high),
        confidence=rate.confidence,
        what="rate",
        found=f"{summary.attack} extracted {counted(rate)} exactly",
        unit="%",
        remark="; no controls were given, so predictable text counts as extracted too"
        if none
        else "",
    )


def leaked_measure(rate: Rate) -> Measure:
    """The share of windows that some attack extracts from the target and none from the reference.

    Upper ends as of `exact_measure`. Text that is merely predictable comes out of both, so it
    does not count.
    """
    return Measure(
        attack="",
        estimate=rate.estimate,
        bound=max(rate.interval.high, rate.clustered.high),
        confidence=rate.confidence,
        what="share",
        found=f"{counted(rate)} are extracted from the model and not from the reference",
        unit="%",
    )


def fractional_measure(summary: AttackSummary) -> Measure:
    """The mean share of suffix tokens in their place. Upper ends: Hoeffding's bounds over
    independent clusters of their sizes (score.stats.bounded_mean), and the bootstrap over them."""
    confidence = summary.exact.confidence
    share = summary.fractional
    sizes = np.array(summary.cluster_sizes, dtype=np.int64)
    widest = bounded_mean(0.0 if math.isnan(share) else share, sizes, confidence)
    found = f"{summary.attack} extracted {percent(share)} of the suffix tokens in their place"
    on_controls = summary.controls_fractional
    if on_controls is not None and not math.isnan(on_controls):
        found += f" (of the controls' {percent(on_controls)})"
    return Measure(
        attack=summary.attack,
        estimate=share,
        bound=max(widest.high, summary.fractional_interval.high),
        confidence=confidence,
        what="share",
        found=found,
        unit="%",
    )


def lift_measure(summary: AttackSummary) -> Measure | None:
    """The exact rate above that of ``none``, on the same windows; None where there is none.

    Upper ends: the corners of two Clopper–Pearson intervals, of the windows gained and of those
    lost, and the bootstrap of the paired difference over clusters; where no window differs, the
    corners of what may have been gained and lost in clusters of their sizes (score.stats.agreeing).
    """
    lift, rate = summary.lift, summary.exact
    if lift is None:
        return None
    widest = difference(lift.gained, rate.n, lift.lost, rate.n, rate.confidence).high
    if rate.n and not lift.gained + lift.lost:
        sizes = np.array(summary.cluster_sizes, dtype=np.int64)
        widest = agreeing(sizes, False, 1 - (1 - rate.confidence) / 2).high
    side = "below" if lift.estimate < 0 else "above"
    apart = math.nan if math.isnan(lift.estimate) else abs(lift.estimate)
    return Measure(
        attack=summary.attack,
        estimate=lift.estimate,
        bound=max(lift.interval.high, widest),
        confidence=rate.confidence,
        what="lift",
        found=(
            f"the exact rate of {summary.attack} is {100 * apart:.3g} points {side} that of none "
            f"({lift.gained:,} windows gained, {lift.lost:,} lost)"
        ),
        unit="points",
    )


def windows_needed(k: int, threshold: float, confidence: float) -> int | None:
    """Least number of windows of which ``k`` hits have an exact upper bound <= ``threshold``.

    None where no number within reason does: for a threshold of 0 there is none at all.
    """
    low, high = k, k + 1  # low never suffices: k of k has the upper bound 1
    while clopper_pearson(k, high, confidence).high > threshold:
        if high > _MOST_WINDOWS:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if clopper_pearson(k, middle, confidence).high > threshold:
            low = middle
        else:
            high = middle
    return high


def counted(rate: Rate, what: str = "windows") -> str:
    """``30 of 1,000 windows (3 %)``."""
    share = f" ({percent(rate.estimate)})" if rate.n else ""
    return f"{rate.k:,} of {rate.n:,} {what}{share}"


def percent(share: float) -> str:
    """Three digits: the reasons of gates are read beside thresholds, not in tables."""
    return f"{100 * share:.3g} %"
