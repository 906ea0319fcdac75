"""The figure that each gate on an attack judges, with its upper bound and its wording.

Knows attack summaries and intervals. Knows nothing of settings or limits.

Every upper bound is the larger of two: one that holds for any number of samples, and one that
resamples near-duplicate clusters. So it stays wide if there is little data, even when all clusters
agree and the bootstrap over them is blind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from memaudit.config.settings import attack_subject
from memaudit.score.stats import agreeing, bounded_mean, clopper_pearson, difference
from memaudit.score.summary import AttackSummary, Rate

_MAX_SAMPLES = 10**9
"""Samples at which the search for a sufficient number gives up."""


@dataclass(frozen=True)
class Measure:
    """One figure of one attack."""

    attack: str
    estimate: float
    """NaN if nothing was scored."""
    bound: float
    """Upper end of its interval."""
    confidence: float
    """Confidence level of that interval."""
    what: str
    """Noun: ``rate``, ``share`` or ``lift``."""
    statement: str
    """The figure in words, the beginning of a sentence."""
    unit: str
    """Unit of 100 times the figure: ``%`` or ``points``."""
    remark: str = ""
    """A caveat for the reader, the end of a sentence."""

    def format_figure(self, figure: float) -> str:
        """Format a figure of this kind, with its unit."""
        return f"{100 * figure:.3g} {self.unit}"


def exact_measure(summary: AttackSummary) -> Measure:
    """Measure the rate extracted. Upper bounds: Clopper–Pearson, and the cluster bootstrap."""
    rate = summary.extracted
    no_controls = summary.controls_extracted is None
    return Measure(
        attack=summary.attack,
        estimate=rate.estimate,
        bound=max(rate.interval.high, rate.clustered.high),
        confidence=rate.confidence,
        what="rate",
        statement=f"{attack_subject(summary.attack)} extracted {counted(rate)}",
        unit="%",
        remark="; no controls were given, so predictable text counts as extracted too"
        if no_controls
        else "",
    )


def any_measure(summary: AttackSummary) -> Measure:
    """Measure the share of samples that at least one attack extracts, as `exact_measure` does."""
    measure = exact_measure(summary)
    statement = f"at least one attack extracted {counted(summary.extracted)}"
    return replace(measure, attack="", statement=statement)


def leaked_measure(rate: Rate) -> Measure:
    """Measure the share of samples extracted from the target and not from the reference.

    Upper bounds as in `exact_measure`. Text that is merely predictable is extracted from both
    models, so it does not count.
    """
    return Measure(
        attack="",
        estimate=rate.estimate,
        bound=max(rate.interval.high, rate.clustered.high),
        confidence=rate.confidence,
        what="share",
        statement=f"{counted(rate)} are extracted from the model and not from the reference",
        unit="%",
    )


def fractional_measure(summary: AttackSummary) -> Measure:
    """Measure the mean share of suffix tokens extracted in place.

    Upper bounds: Hoeffding's bounds over independent clusters of their sizes
    (score.stats.bounded_mean), and the bootstrap over clusters.
    """
    confidence = summary.extracted.confidence
    share = summary.fractional
    sizes = np.array(summary.cluster_sizes, dtype=np.int64)
    widest = bounded_mean(0.0 if math.isnan(share) else share, sizes, confidence)
    statement = (
        f"{attack_subject(summary.attack)} extracted {percent(share)} of the suffix tokens in place"
    )
    on_controls = summary.controls_fractional
    if on_controls is not None and not math.isnan(on_controls):
        statement += f" ({percent(on_controls)} of the controls')"
    return Measure(
        attack=summary.attack,
        estimate=share,
        bound=max(widest.high, summary.fractional_interval.high),
        confidence=confidence,
        what="share",
        statement=statement,
        unit="%",
    )


def lift_measure(summary: AttackSummary) -> Measure | None:
    """Measure the rate extracted minus that by ``none``; None without a lift.

    Upper bounds: the corners of two Clopper–Pearson intervals, of the samples gained and lost, and
    the bootstrap of the paired difference over clusters. If no sample differs, the former are the
    corners of the gains and losses possible in clusters of their sizes (score.stats.agreeing).
    """
    lift, rate = summary.lift, summary.extracted
    if lift is None:
        return None
    widest = difference(lift.gained, rate.n, lift.lost, rate.n, rate.confidence).high
    if rate.n and not lift.gained + lift.lost:
        sizes = np.array(summary.cluster_sizes, dtype=np.int64)
        widest = agreeing(sizes, False, 1 - (1 - rate.confidence) / 2).high
    side = "below" if lift.estimate < 0 else "above"
    distance = math.nan if math.isnan(lift.estimate) else abs(lift.estimate)
    return Measure(
        attack=summary.attack,
        estimate=lift.estimate,
        bound=max(lift.interval.high, widest),
        confidence=rate.confidence,
        what="lift",
        statement=(
            f"the rate of {summary.attack} is {100 * distance:.3g} points {side} that of "
            f"the prefix alone ({lift.gained:,} samples gained, {lift.lost:,} lost)"
        ),
        unit="points",
    )


def samples_needed(k: int, threshold: float, confidence: float) -> int | None:
    """Return the fewest samples of which ``k`` hits have an exact upper bound <= ``threshold``.

    None if no reasonable number does; for a threshold of 0 there is none at all.
    """
    low, high = k, k + 1  # low never suffices: k of k has the upper bound 1
    while clopper_pearson(k, high, confidence).high > threshold:
        if high > _MAX_SAMPLES:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if clopper_pearson(k, middle, confidence).high > threshold:
            low = middle
        else:
            high = middle
    return high


def counted(rate: Rate, what: str = "samples") -> str:
    """Format a rate as ``30 of 1,000 samples (3 %)``."""
    share = f" ({percent(rate.estimate)})" if rate.n else ""
    return f"{rate.k:,} of {rate.n:,} {what}{share}"


def percent(share: float) -> str:
    """Format a share to three digits: reasons are compared with thresholds, not read in tables."""
    return f"{100 * share:.3g} %"
