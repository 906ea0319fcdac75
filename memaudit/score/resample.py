"""Intervals from resamples of whole clusters: the only place that draws them.

Knows values, labels and cluster numbers as arrays. Knows nothing of tokens, attacks or models. N
stands for windows, K for their clusters, F for figures, R for resamples.

Windows of a cluster are near-duplicates, so a resample takes as many whole clusters as there are,
with replacement, and an interval lies between two percentiles of what the resamples give (Efron &
Tibshirani 1993, ch. 13; Field & Welsh 2007). Where all windows agree a bootstrap is blind, and the
exact bounds of `score.stats` take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from memaudit.config.settings import ScoreSettings
from memaudit.score.estimate import Estimate
from memaudit.score.ranking import Ranking
from memaudit.score.stats import (
    Bools,
    Floats,
    Interval,
    Ints,
    agreeing,
    bounded_mean,
    clopper_pearson,
)

LEAST_CLUSTERS = 10
"""Fewest clusters of each kind that are compared: with fewer, intervals are too narrow. With 10
positives among 300 windows of random scores, 7 % of nominal 95 % intervals of the AUC miss 0.5;
with 5 it is 14 %, with 1 it is 89 %."""
LEAST_FITTED_CLUSTERS = 20
"""Fewest clusters of each kind that a probe or predictor is fitted on: more than `LEAST_CLUSTERS`,
because five folds divide them, and each still needs four to be scored by."""

_CELLS = 1 << 22
"""Counts held at once while resampling: 32 MiB of int64."""
_CACHED = 1 << 17
"""Weights of windows held at once: 1 MiB; sorting them by score is slow beyond the cache."""
_LEAST_SPREAD = 1e-9
"""Standard deviation below which resamples are taken to agree."""


@dataclass(frozen=True, eq=False)
class Replicates:
    """F figures and their values in the same resamples, so that their differences are paired."""

    values: Floats
    """(F,) NaN without data."""
    samples: Floats
    """(R,F)."""
    confidence: float

    def estimates(self) -> list[Estimate]:
        """Return each figure with its percentile interval.

        Resamples without the figure are left out; without an interval if they are more than half.
        """
        known = self._known()
        filled = np.where(known, self.samples, 0.0)
        lows, highs = np.nanquantile(filled, tails(self.confidence), axis=0)
        return [
            Estimate.of(float(value), Interval(float(low), float(high)) if is_known else None)
            for value, low, high, is_known in zip(self.values, lows, highs, known, strict=True)
        ]

    def simultaneous(self, among: Bools | None = None) -> list[Estimate]:
        """Return the figures with intervals that hold for all of ``among`` (F,) at once.

        From the largest studentised deviation in each resample (Westfall & Young 1993, max-t), so
        that the best of many is not taken for more than luck. Figures outside ``among`` have no
        interval; one that is the same in every resample has a point.
        """
        chosen = self._known() if among is None else self._known() & among
        samples = self.samples[~np.isnan(self.samples[:, chosen]).any(axis=1)]
        spread = np.where(chosen, samples.std(axis=0), 0.0)
        varied = spread > _LEAST_SPREAD
        reach = np.zeros(len(spread))
        if varied.any():
            off = np.abs(samples - self.values)[:, varied] / spread[varied]
            reach = float(np.quantile(off.max(axis=1), self.confidence)) * spread
        return [
            Estimate.of(float(value), Interval(value - far, value + far) if is_chosen else None)
            for value, far, is_chosen in zip(self.values, reach.tolist(), chosen, strict=True)
        ]

    def interval(self) -> Interval:
        """Return the percentile interval of the first figure."""
        low, high = np.quantile(self.samples[:, 0], tails(self.confidence))
        return Interval(float(low), float(high))

    def p_value(self) -> float:
        """Return twice the smaller share of resamples with the first figure on one side of 0.

        Resamples at 0 count on both sides, and the figure itself as one resample, so the p-value
        is not below 1 - confidence where `interval` holds 0.
        """
        first = self.samples[:, 0]
        fewest = min(np.count_nonzero(first <= 0), np.count_nonzero(first >= 0))
        return min(1.0, 2 * (1 + int(fewest)) / (1 + len(first)))

    def minus(self, other: Replicates) -> Replicates:
        """Return the differences, resample by resample; of one figure from each of F as well."""
        return Replicates(self.values - other.values, self.samples - other.samples, self.confidence)

    def take(self, index: slice | Ints) -> Replicates:
        """Return the figures at ``index``."""
        return Replicates(self.values[index], self.samples[:, index], self.confidence)

    def _known(self) -> Bools:
        """Return which figures (F,) are known, and in at least half of the resamples."""
        known = np.mean(~np.isnan(self.samples), axis=0) >= 0.5
        return np.asarray(np.isfinite(self.values) & known)


def _any_windows(clusters: Ints) -> bool:
    return True


@dataclass(frozen=True)
class Resamples:
    """How intervals are made: their confidence, the number of resamples, and the random seed.

    From numbers as the seed every interval draws anew, so that none depends on which others are
    made. A generator goes on where it stands: figures of different windows are then independent.
    """

    confidence: float
    number: int
    seed: int | tuple[int, ...] | np.random.Generator
    admits: Callable[[Ints], bool] = _any_windows
    """Takes the clusters of windows (N,): False if no mean or rate of them may be given."""

    @classmethod
    def of(
        cls, settings: ScoreSettings, seed: int | tuple[int, ...] | np.random.Generator
    ) -> Resamples:
        """Return the resamples that a scan's settings ask for."""
        return cls(settings.confidence, settings.bootstrap, seed)

    def rng(self) -> np.random.Generator:
        """Return the generator for the resamples of one interval."""
        return np.random.default_rng(self.seed)

    def draw(self, clusters: Ints) -> Iterator[Floats]:
        """Yield how often each window (N,) is drawn, some resamples at a time: (rows,N)."""
        _, place = np.unique(clusters, return_inverse=True)
        count, rng = int(place.max()) + 1, self.rng()
        rows = max(1, _CACHED // len(place))
        for start in range(0, self.number, rows):
            size = min(rows, self.number - start)
            taken = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
            times = np.bincount(taken.ravel(), minlength=size * count).reshape(size, count)
            yield times[:, place].astype(np.float64)

    def replicate(self, clusters: Ints, figures: Callable[[Floats], Floats]) -> Replicates:
        """Return what ``figures`` gives for the windows (N,) as they are, and in each resample.

        ``figures`` takes how often each window counts, (rows,N), and returns (rows,F).
        """
        values = figures(np.ones((1, len(clusters))))[0]
        samples = np.concatenate([figures(times) for times in self.draw(clusters)])
        return Replicates(values, samples, self.confidence)

    def means(self, values: Floats, clusters: Ints, weights: Floats | None = None) -> Replicates:
        """Return the means of values (N,F) over windows; a value that is NaN is left out.

        weights: (N,) windows that each value stands for, if only some were examined.

        The mean of a resample is the ratio of its sum to its size. Clusters of equal sum and size
        are interchangeable, so a multinomial count over the *kinds* of cluster gives the same
        distribution at a fraction of the cost.

        Raises:
            ValueError: there are no values, or not one cluster number for each.
        """
        sums, sizes = _by_cluster(values, clusters, weights)
        count = values.shape[1]
        kinds, counts = np.unique(np.hstack([sums, sizes]), axis=0, return_counts=True)
        total, shares = int(counts.sum()), counts / counts.sum()
        rows, rng = max(1, _CELLS // len(kinds)), self.rng()
        samples = np.empty((self.number, count))
        for start in range(0, self.number, rows):
            stop = min(start + rows, self.number)
            totals = rng.multinomial(total, shares, size=stop - start) @ kinds  # (rows, 2F)
            samples[start:stop] = _ratio(totals[:, :count], totals[:, count:])
        return Replicates(_ratio(sums.sum(axis=0), sizes.sum(axis=0)), samples, self.confidence)

    def bootstrap(
        self, values: npt.NDArray[np.generic], clusters: Ints, weights: Floats | None = None
    ) -> Interval:
        """Return the interval of the mean of values (N,), none of them NaN; see `means`.

        If all values are equal, or there is one cluster, every resample is the same and the
        interval is a meaningless point: use an exact one.
        """
        return self.means(values[:, None].astype(np.float64), clusters, weights).interval()

    def mean(self, values: Floats, clusters: Ints, weights: Floats | None = None) -> Estimate:
        """Return the mean of the values (N,) that are numbers; no interval from one cluster."""
        known = np.isfinite(values)
        if not known.any() or not self.admits(clusters[known]):
            return Estimate(None)
        values, clusters = values[known], clusters[known]
        weights = None if weights is None else weights[known]
        value = float(np.average(values, weights=weights))
        if len(np.unique(clusters)) < 2:
            return Estimate.of(value)
        return Estimate.of(value, self.bootstrap(values, clusters, weights))

    def each_mean(self, values: Floats, clusters: Ints) -> list[Estimate]:
        """Return the mean of each column of values (N,F), NaN left out, from the same resamples.

        No interval for a figure that fewer than two clusters have; no mean of some of the windows
        that may not be given.
        """
        if not len(values):
            return [Estimate(None)] * values.shape[1]
        means = self.means(values, clusters).estimates()
        known = _by_cluster(values, clusters)[1] > 0
        for column, is_known in enumerate(~np.isnan(values.T)):
            if not is_known.all() and not self.admits(clusters[is_known]):
                means[column] = Estimate(None)
        return [
            mean if enough else Estimate(mean.value)
            for mean, enough in zip(means, known.sum(axis=0) >= 2, strict=True)
        ]

    def mean_share(self, shares: Floats, clusters: Ints) -> Estimate:
        """Return the mean of values (N,) in [0,1]; where the bootstrap is blind, a wider bound."""
        mean = self.mean(shares, clusters).unless_point()
        if mean.value is None or mean.low is not None:
            return mean
        value = min(1.0, max(0.0, mean.value))
        sizes = np.unique(clusters, return_counts=True)[1]
        return Estimate.of(value, bounded_mean(value, sizes, self.confidence))

    def change(
        self, values: Floats, before: Floats, clusters: Ints, weights: Floats | None = None
    ) -> Estimate:
        """Return the mean of values (N,) minus those before, on the same windows.

        No interval if no window differs: resamples would say that none could.
        """
        change = values - before
        mean = self.mean(change, clusters, weights)
        return mean if np.any(change) else Estimate(mean.value)

    def difference(self, values: Floats, first: Bools, clusters: Ints) -> Estimate:
        """Return the mean of the ``first`` windows' values (N,) minus that of the others.

        Clusters are drawn once for both: one that has windows of either kind moves both means.
        """
        if first.all() or not first.any():
            return Estimate(None)
        columns = np.stack([np.where(first, values, np.nan), np.where(first, np.nan, values)], 1)
        means = self.means(columns, clusters)
        difference = means.take(slice(0, 1)).minus(means.take(slice(1, 2))).estimates()[0]
        known = np.isfinite(values)
        fewest = fewest_clusters(clusters, first & known, ~first & known)
        return difference if fewest >= 2 else Estimate(difference.value)

    def rate(self, hits: Bools, clusters: Ints, weights: Floats | None = None) -> Estimate:
        """Return the share of windows (N,): outer ends of the exact interval and `clustered`.

        The exact one takes it for a share of as many independent windows as were examined.
        """
        if not len(hits) or not self.admits(clusters):
            return Estimate(None)
        value = float(np.average(hits, weights=weights))
        exact = clopper_pearson(round(value * len(hits)), len(hits), self.confidence)
        return Estimate.of(value, exact).wider(self.clustered(hits, clusters, weights))

    def clustered(self, hits: Bools, clusters: Ints, weights: Floats | None = None) -> Interval:
        """Return the interval of a share of windows (N,) over their clusters.

        If every window agrees, the exact bound over clusters of their sizes (`stats.agreeing`): no
        hit in 1,000 windows of 10 documents of equal length is known to be below 31 %, not below
        0.4 %. (0, 1) without windows.

        Raises:
            ValueError: there is not one cluster number for each window.
        """
        if not len(hits):
            return Interval(0.0, 1.0)
        if hits.all() or not hits.any():
            sizes = _by_cluster(hits[:, None], clusters, weights)[1][:, 0]
            return agreeing(sizes, bool(hits.all()), self.confidence)
        return self.bootstrap(hits, clusters, weights)

    def auc(self, scores: Floats, positive: Bools, clusters: Ints) -> Estimate:
        """Return how often a positive outscores a negative, ties counting half; see `aucs`."""
        return self.aucs(scores[:, None], positive, clusters)[0]

    def aucs(
        self, scores: Floats, positive: Bools, clusters: Ints, *, together: bool = False
    ) -> list[Estimate]:
        """Return the AUC of each column of scores (N,F); higher scores mean more positive.

        together: intervals that hold for all columns at once (`Replicates.simultaneous`).

        No interval if fewer than `LEAST_CLUSTERS` clusters hold a positive, or a negative. If every
        positive is above (or below) every negative, so is it in every resample; the interval is
        then the exact one of as many pairs as there are clusters of the rarer kind.

        Raises:
            ValueError: a score is NaN.
        """
        if positive.all() or not positive.any():
            return [Estimate(None)] * scores.shape[1]

        def areas(times: Floats) -> Floats:
            columns = [Ranking.of(column, positive, times).area() for column in scores.T]
            return np.stack(columns, axis=1)

        fewest = fewest_clusters(clusters, positive, ~positive)
        if fewest < LEAST_CLUSTERS:
            values = areas(np.ones((1, len(positive))))[0].tolist()
            return [Estimate(value) for value in values]
        replicates = self.replicate(clusters, areas)
        estimates = replicates.simultaneous() if together else replicates.estimates()
        confidence = shared(self.confidence, len(estimates) if together else 1)
        exact: dict[float | None, Estimate] = {
            hits: Estimate.of(hits, clopper_pearson(hits * fewest, fewest, confidence))
            for hits in (0, 1)
        }
        return [exact.get(auc.value) or _within_unit(auc) for auc in estimates]

    def crossed(self, values: Floats, rows: Ints, columns: Ints | None) -> Estimate:
        """Return the mean of values (I,J), NaN left out; no interval if nothing varies.

        rows: (I,) clusters; columns: (J,) clusters, or None where both are the same things, as in
        a matrix of pairs. Clusters of rows and of columns are drawn with replacement, and a cell
        weighs the product (Owen 2007, the pigeonhole bootstrap: if anything, too wide).
        """
        known = np.isfinite(values)
        if not known.any():
            return Estimate(None)
        filled, rng = np.where(known, values, 0.0), self.rng()
        by_row = list(Resamples(self.confidence, self.number, rng).draw(rows))
        by_column = (
            by_row
            if columns is None
            else list(Resamples(self.confidence, self.number, rng).draw(columns))
        )
        down, across = np.concatenate(by_row), np.concatenate(by_column)
        sums, sizes = (((down @ cells) * across).sum(axis=1) for cells in (filled, known))
        samples = _ratio(sums, sizes)[:, None]
        mean = np.array([values[known].mean()])
        return Replicates(mean, samples, self.confidence).estimates()[0].unless_point()

    def median(self, values: Floats) -> Estimate:
        """Return the median of values (N,), which may be infinite, and its exact interval.

        The order statistics between which it lies with that confidence whatever the distribution
        (Conover 1999, ch. 3.2). No end where values are too few for one, or where it is infinite.
        """
        if not len(values):
            return Estimate(None)
        ordered = np.sort(values)
        # The interval from the k-th smallest to the k-th largest misses with 2 P(X < k).
        place = int(stats.binom.ppf(tails(self.confidence)[0], len(values), 0.5))
        ends = (ordered[place - 1], ordered[-place]) if place else (np.nan, np.nan)
        middle = float(np.quantile(ordered, 0.5, method="inverted_cdf"))
        return Estimate.of(middle, Interval(*map(float, ends)))


def tails(confidence: float) -> tuple[float, float]:
    """Return the probabilities below the two ends of an interval."""
    tail = (1 - confidence) / 2
    return tail, 1 - tail


def shared(confidence: float, count: int) -> float:
    """Return the confidence of each of ``count`` intervals that hold together (Bonferroni)."""
    return 1 - (1 - confidence) / count


def fewest_clusters(clusters: Ints, *kinds: Bools) -> int:
    """Return the number of clusters (N,) that hold the rarest of some kinds of window (N,)."""
    return min(len(np.unique(clusters[kind])) for kind in kinds)


def _within_unit(estimate: Estimate) -> Estimate:
    """Cut ends off at 0 and 1."""
    if estimate.low is None or estimate.high is None:
        return estimate
    return Estimate(estimate.value, max(0.0, estimate.low), min(1.0, estimate.high))


def _by_cluster(
    values: npt.NDArray[np.generic], clusters: Ints, weights: Floats | None = None
) -> tuple[Floats, Floats]:
    """Return the sum and the weight of the values (N,F) that are not NaN by cluster: (K,F)."""
    if not len(values) or values.shape[:1] != clusters.shape:
        raise ValueError(f"{values.shape[:1]} values with {clusters.shape} cluster numbers")
    _, index = np.unique(clusters, return_inverse=True)
    each = np.ones(len(values)) if weights is None else weights
    numbers = values.astype(np.float64)
    known = ~np.isnan(numbers)
    filled = np.where(known, numbers, 0.0)
    sums = [np.bincount(index, weights=each * column) for column in filled.T]
    sizes = [np.bincount(index, weights=each * column) for column in known.T]
    return np.stack(sums, axis=1), np.stack(sizes, axis=1)


def _ratio(sums: Floats, sizes: Floats) -> Floats:
    return np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0)
