"""Intervals of figures over sets of units and the windows they are tried on.

Knows matrices and cluster numbers. Knows nothing of units. I stands for sets, J for windows.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from memaudit.report.diagnosis import Measure
from memaudit.score.stats import Floats, Interval, Ints


def crossed_mean(
    values: Floats,
    rows: Ints,
    columns: Ints | None,
    *,
    confidence: float,
    resamples: int,
    rng: np.random.Generator,
) -> Measure:
    """Mean of values (I,J), NaN left out, and its interval; no interval where nothing varies.

    rows: (I,) clusters; columns: (J,) likewise, or None where both are the same things, as in a
    matrix of pairs. Percentile bootstrap that draws clusters of rows and of columns, each with
    replacement, and weighs a cell by the product (Owen 2007, the pigeonhole bootstrap: if
    anything, too wide).
    """
    known = np.isfinite(values)
    if not known.any():
        return Measure(None, None, None)
    filled, mean = np.where(known, values, 0.0), float(values[known].mean())
    means = np.empty(resamples)
    for number in range(resamples):
        down = _weights(rows, rng)
        across = down if columns is None else _weights(columns, rng)
        weight = down @ known @ across
        means[number] = down @ filled @ across / weight if weight else np.nan
    means = means[np.isfinite(means)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail]) if len(means) else (mean, mean)
    if low == high:
        return Measure(mean, None, None)
    return Measure(mean, float(low), float(high))


def _weights(clusters: Ints, rng: np.random.Generator) -> Floats:
    """How often each thing is drawn when as many clusters are drawn as there are."""
    _, number = np.unique(clusters, return_inverse=True)
    count = int(number.max()) + 1
    drawn = np.bincount(rng.integers(count, size=count), minlength=count)
    return np.asarray(drawn[number], dtype=np.float64)


def median(values: Floats, confidence: float) -> Measure:
    """Median of values (I,), which may be infinite, and its exact interval: the order statistics
    between which it lies with that confidence whatever the distribution (Conover 1999, ch. 3.2).

    No end where values are too few for one, or where it is infinite; no value where that is.
    """
    if not len(values):
        return Measure(None, None, None)
    ordered = np.sort(values)
    # The interval from the k-th smallest to the k-th largest misses with 2 P(X < k).
    place = int(stats.binom.ppf((1 - confidence) / 2, len(values), 0.5))
    low, high = (ordered[place - 1], ordered[-place]) if place else (np.nan, np.nan)
    middle = float(np.quantile(ordered, 0.5, method="inverted_cdf"))
    return Measure.of(middle, Interval(float(low), float(high)))
