"""Intervals and tests for rates over windows that come in clusters.

Knows counts, values and cluster numbers. Knows nothing of tokens, attacks or gates.

There are two kinds of interval. The exact one (Clopper–Pearson) holds for any number of windows,
zero hits included, but takes windows as independent. The cluster bootstrap (`score.resample`)
resamples whole near-duplicate clusters, but is blind where every cluster agrees. Neither replaces
the other; whoever judges takes the wider end. N stands for windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Counts = Ints | Floats

_LEAST = 1e-15
"""Distance from 0 and 1 at which the search for a bound stops."""
_LEAST_P, _HALVINGS = 1e-12, 30
"""Least p-value of a contrast, and steps of the search for it."""


class Interval(NamedTuple):
    """A two-sided confidence interval, ends included."""

    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """The exact McNemar test of two attacks on the same windows."""

    gained: int
    """Windows that only the first attack hit."""
    lost: int
    """Windows that only the second attack hit."""
    p_value: float
    """Two-sided; 1 if the two attacks never differ."""


@dataclass(frozen=True, eq=False)
class Clustered:
    """Hits of N windows and their clusters."""

    hits: Bools
    clusters: Ints


@dataclass(frozen=True)
class Contrast:
    """The difference of two rates: an interval and a p-value that say the same."""

    interval: Interval
    p_value: float
    """Two-sided; below 1 - confidence if, and only if, the interval excludes 0."""


def clopper_pearson(k: float, n: float, confidence: float) -> Interval:
    """Return the exact interval of a rate from ``k`` hits in ``n`` independent trials.

    Clopper & Pearson 1934; its coverage is never below ``confidence``. (0, 1) without trials.
    Numbers between whole ones are those of trials that clusters are worth.

    Raises:
        ValueError: ``k`` is not within 0..n.
    """
    if not 0 <= k <= n:
        raise ValueError(f"{k} hits of {n} trials: hits must be between 0 and the trials")
    tail = (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return Interval(low, high)


def bounded_mean(mean: float, sizes: Counts, confidence: float) -> Interval:
    """Return the interval of a mean over windows in K independent clusters of ``sizes`` (K,).

    A cluster's weight w is its share of the windows; its mean is in [0,1], with any distribution.
    Two bounds on the probability that the mean m lies this far from its expectation u both hold,
    so the narrower interval does:

    - exp(-2 n (m - u)^2) with n = 1 / sum w^2 (Hoeffding 1963, theorem 2);
    - exp(-n KL(m, u)) with n = 1 / max w, KL the relative entropy of two coins: theorem 1 for equal
      weights; for others log(1 - p + p e^(tw)) is convex in w and 0 at 0, hence at most w / max w
      of its value at max w, and concave in p.

    A mean of 0 or 1 is bounded by `agreeing`. Coverage is never below ``confidence``. (0, 1)
    without clusters.

    Raises:
        ValueError: ``mean`` is not within 0..1.
    """
    if not 0 <= mean <= 1:
        raise ValueError(f"a mean of {mean}: it must be between 0 and 1")
    if not len(sizes):
        return Interval(0.0, 1.0)
    if mean in (0, 1):
        return agreeing(sizes, mean == 1, confidence)
    shares = sizes / sizes.sum()
    surprise = math.log(2 / (1 - confidence))
    allowed = surprise * float(shares.max())
    reach = math.sqrt(surprise * float(shares @ shares) / 2)

    def excess(u: float) -> float:
        return float(special.rel_entr(mean, u) + special.rel_entr(1 - mean, 1 - u)) - allowed

    low, high = _root(excess, _LEAST, mean), _root(excess, mean, 1 - _LEAST)
    return Interval(max(low, mean - reach), min(high, mean + reach))


def agreeing(sizes: Counts, hit: bool, confidence: float) -> Interval:
    """Return the interval of a mean that is 0, or 1 if ``hit``, in each of K independent clusters.

    Each cluster, of ``sizes`` (K,) in windows, has its own expectation p. A value in [0,1] is 0
    with probability at most 1 - p, so all are 0 with probability at most prod(1 - p). Among all p
    whose product is at least (1 - confidence) / 2, the largest mean over windows has
    1 - p = c / size for sizes above c and p = 0 elsewhere (Lagrange). For equal sizes this is
    `clopper_pearson`; one cluster with half of the windows keeps it near a half or above.
    """
    large = np.sort(sizes)[::-1].astype(np.float64)
    if large[0] == large[-1]:  # equal sizes: identical to the last digit
        return clopper_pearson(len(large) if hit else 0, len(large), confidence)
    surprise = math.log(2 / (1 - confidence))
    # The sum of log(size / c) over the largest j is at most what it is over all sizes above c.
    cut = math.exp(np.max((np.cumsum(np.log(large)) - surprise) / np.arange(1, len(large) + 1)))
    missed = float(np.maximum(large - cut, 0.0).sum() / large.sum())
    return Interval(1 - missed, 1.0) if hit else Interval(0.0, missed)


def paired_exact(a: Bools, b: Bools) -> Paired:
    """Run the exact McNemar test of ``a`` (N,) against ``b`` (N,), hits on the same windows.

    Only windows on which the two differ count: without a difference each goes either way with
    probability 1/2. Takes windows as independent; see `paired_clustered`.
    """
    gained, lost = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    p_value = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Paired(gained, lost, p_value)


def paired_clustered(
    a: Bools | Ints, b: Bools | Ints, clusters: Ints, resamples: int, rng: np.random.Generator
) -> float:
    """Return the two-sided p-value of ``a`` against ``b`` (N,), windows of a cluster dependent.

    Both are hits, or counts of the fits that hit each window. Sign-flip permutation test: without a
    difference, each cluster's sum of a - b is as likely as its negative. Only the sizes of the sums
    matter, so flips of equal sizes are sampled as one binomial count. The observed value counts as
    one of the resamples (Phipson & Smyth 2010), so the smallest p-value is 1 / (resamples + 1).
    1 if no cluster's sum differs from zero.
    """
    if not len(a):
        return 1.0
    _, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, weights=a.astype(np.float64) - b)
    sizes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    flips = 2 * rng.binomial(counts, 0.5, size=(resamples, len(sizes))) - counts
    # Sums of 0/1 differences are whole numbers: the comparison is exact in float64.
    as_far = np.abs(flips @ sizes) >= abs(sums.sum())
    return float((1 + np.count_nonzero(as_far)) / (1 + resamples))


def difference(k1: int, n1: int, k2: int, n2: int, confidence: float) -> Interval:
    """Return a conservative exact interval of rate ``k1/n1`` minus rate ``k2/n2``.

    The corners of two Clopper–Pearson intervals, each missing with half the probability
    (Bonferroni), so both hold together with at least ``confidence``.
    """
    each = 1 - (1 - confidence) / 2
    first, second = clopper_pearson(k1, n1, each), clopper_pearson(k2, n2, each)
    return Interval(first.low - second.high, first.high - second.low)


def contrast(first: Clustered, second: Clustered, confidence: float) -> Contrast:
    """Compare two rates over windows that come in clusters; windows of a cluster may all agree.

    Each arm has the Clopper-Pearson interval of as many independent trials as its windows are worth
    (`_Arm.trials`), of which its rate was hit; `agreeing` where all are hit, or none. The interval
    of the difference takes the distances of both rates from their ends, squared and summed
    (Newcombe 1998, method 10; Zou & Donner 2008), so it is narrower than the corners of
    `difference`. Intervals of a higher confidence hold those of a lower one, so the p-value,
    two-sided, is the least alpha whose interval excludes 0.

    In simulations of clusters of 1 to 20 windows with correlations of 0, 0.5 and 1 it covers the
    difference at least as often as ``confidence`` says, and excludes 0 without a difference in at
    most 1 - confidence. Interval (-1, 1) and p-value 1 if an arm is empty.
    """
    if not (len(first.hits) and len(second.hits)):
        return Contrast(Interval(-1.0, 1.0), 1.0)
    arms = [_Arm.of(arm) for arm in (first, second)]

    def at(level: float) -> Interval:
        (a, below, above), (b, under, over) = (arm.reach(level) for arm in arms)
        return Interval(a - b - math.hypot(below, over), a - b + math.hypot(above, under))

    return Contrast(at(confidence), _least_alpha(at, confidence))


@dataclass(frozen=True, eq=False)
class _Arm:
    """A rate over K clusters."""

    rate: float
    hits: Floats
    """(K,) windows hit."""
    sizes: Floats
    """(K,) windows."""

    @classmethod
    def of(cls, arm: Clustered) -> _Arm:
        _, place, sizes = np.unique(arm.clusters, return_inverse=True, return_counts=True)
        hits = np.bincount(place, weights=arm.hits).astype(np.float64)
        return cls(float(np.mean(arm.hits)), hits, sizes.astype(np.float64))

    @cached_property
    def trials(self) -> float:
        """Independent windows that would tell as much as these; the fewer of two.

        - 1 / sum w^2, w a cluster's share of the windows: if those of a cluster agree (Kish 1965,
          section 8.2);
        - p (1 - p) / v, v the variance of the ratio of hits to windows over clusters (Cochran 1977,
          section 2.11): fewer if it is the large clusters that are hit, as repeated text is.
        """
        squares = self.sizes @ self.sizes
        spread = self.hits - self.rate * self.sizes
        expected = self.rate * (1 - self.rate) * squares
        return float(self.sizes.sum() ** 2 / squares * min(1.0, expected / (spread @ spread or 1)))

    def reach(self, confidence: float) -> tuple[float, float, float]:
        """Return the rate, and its distances from the lower and the upper end of its interval."""
        rate, sizes = self.rate, self.sizes
        if rate in (0, 1):
            low, high = agreeing(sizes, rate == 1, confidence)
        else:
            trials = self.trials
            low, high = clopper_pearson(rate * trials, trials, confidence)
        return rate, max(0.0, rate - low), max(0.0, high - rate)


def _least_alpha(at: Callable[[float], Interval], confidence: float) -> float:
    """Return the least alpha whose interval excludes 0; below 1 - confidence iff its own does."""

    def excludes(level: float) -> bool:
        low, high = at(level)
        return low > 0 or high < 0

    alpha = 1 - confidence
    significant = excludes(confidence)
    low, high = (_LEAST_P, alpha) if significant else (alpha, 1.0)
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        if excludes(1 - middle):
            high = middle
        else:
            low = middle
    return low if significant else high


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the function's zero between two ends; without one, the end nearest to zero."""
    if function(low) * function(high) >= 0:
        return low if abs(function(low)) < abs(function(high)) else high
    return float(optimize.brentq(function, low, high, xtol=1e-15))
