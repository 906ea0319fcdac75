"""Intervals over clusters: against plain loops, by hand, and how often they cover the truth."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
from estimates import ends, known, width
from sklearn.metrics import roc_auc_score

from memaudit.score.estimate import Estimate
from memaudit.score.resample import LEAST_CLUSTERS, Replicates, Resamples
from memaudit.score.stats import Bools, Floats, Interval, Ints, clopper_pearson

RESAMPLES = Resamples(0.95, 400, 0)


def bootstrap(values, clusters, *, seed=0, resamples=2000, confidence=0.95) -> Interval:
    return Resamples(confidence, resamples, seed).bootstrap(
        np.asarray(values), np.asarray(clusters, dtype=np.int64)
    )


def test_bootstrap_draws_what_a_plain_bootstrap_draws():
    rng = np.random.default_rng(1)
    clusters = np.sort(rng.integers(0, 30, 120))
    values = rng.random(120)
    groups = [values[clusters == c] for c in np.unique(clusters)]
    means = [
        np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]).mean()
        for _ in range(20_000)
    ]
    found = bootstrap(values, clusters, resamples=20_000)
    assert found == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=2e-3)


def test_bootstrap_of_interchangeable_clusters_is_the_binomial():
    # 100 windows of their own, 30 hits: the resampled count is binomial(100, 0.3).
    found = bootstrap(np.arange(100) < 30, np.arange(100), resamples=50_000)
    assert found == pytest.approx((0.21, 0.39), abs=0.0101)


def test_bootstrap_ignores_the_order_of_windows_and_the_names_of_clusters():
    rng = np.random.default_rng(2)
    values, clusters = rng.random(50), rng.integers(0, 12, 50)
    order = rng.permutation(50)
    assert bootstrap(values, clusters) == pytest.approx(
        bootstrap(values[order], (clusters * 7 + 3)[order])
    )


def test_bootstrap_over_chunks_is_the_bootstrap_at_once(monkeypatch):
    rng = np.random.default_rng(3)
    values, clusters = rng.random(40), np.arange(40)
    at_once = bootstrap(values, clusters, resamples=500)
    monkeypatch.setattr("memaudit.score.resample._CELLS", 100)
    assert bootstrap(values, clusters, resamples=500) == at_once


def test_bootstrap_is_wider_where_windows_hang_together():
    values = np.repeat(np.arange(20) % 2, 10)
    apart = bootstrap(values, np.arange(200))
    together = bootstrap(values, np.repeat(np.arange(20), 10))
    assert together.high - together.low > 2 * (apart.high - apart.low)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_bootstrap_of_equal_values_is_that_value(value):
    assert bootstrap(np.full(9, value), np.arange(9) // 2) == (value, value)


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([1.0, 2.0], [0])])
def test_bootstrap_refuses_nothing_and_mismatches(values, clusters):
    with pytest.raises(ValueError, match="cluster numbers"):
        bootstrap(values, clusters)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    # 60 clusters of 1 to 9 windows; a cluster is hit as a whole three times in ten.
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(300):
        sizes = rng.integers(1, 10, 60)
        hits = np.repeat(rng.random(60) < 0.3, sizes)
        clusters = np.repeat(np.arange(60), sizes)
        low, high = bootstrap(hits, clusters, seed=trial, resamples=400)
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 300 <= 0.98


def taken_again(clusters: Ints, rng: np.random.Generator) -> Ints:
    """Windows of one resample, the slow way: clusters one by one, each with all its windows."""
    names = np.unique(clusters)
    return np.concatenate(
        [np.flatnonzero(clusters == names[rng.integers(len(names))]) for _ in names]
    )


def test_an_estimate_is_that_of_a_plain_loop_over_resampled_windows() -> None:
    """Means, a paired change, an unpaired difference and an AUC, each written out."""
    rng = np.random.default_rng(5)
    clusters = rng.integers(0, 50, 160)
    first = rng.random(160) < 0.4
    values = rng.normal(size=160) + first + clusters / 40
    before = values + rng.normal(size=160) / 2 - 0.2
    resamples = Resamples(0.9, 4000, 1)
    found = {
        "mean": resamples.mean(values, clusters),
        "change": resamples.change(values, before, clusters),
        "difference": resamples.difference(values, first, clusters),
        "auc": resamples.auc(values, first, clusters),
    }
    loop: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(3000):
        rows = taken_again(clusters, rng)
        kind, some = first[rows], values[rows]
        loop["mean"].append(some.mean())
        loop["change"].append((some - before[rows]).mean())
        loop["difference"].append(some[kind].mean() - some[~kind].mean())
        loop["auc"].append((some[kind][:, None] > some[~kind]).mean())
    for name, estimate in found.items():
        low, high = np.quantile(loop[name], [0.05, 0.95])
        width = high - low
        assert estimate.low == pytest.approx(low, abs=0.06 * width), name
        assert estimate.high == pytest.approx(high, abs=0.06 * width), name
    assert found["mean"].value == pytest.approx(values.mean())
    assert found["change"].value == pytest.approx((values - before).mean())
    assert found["difference"].value == pytest.approx(values[first].mean() - values[~first].mean())


def test_columns_without_a_number_are_the_mean_of_the_others() -> None:
    rng = np.random.default_rng(6)
    clusters, values = rng.integers(40, size=300), rng.standard_normal((300, 2))
    values[::3, 1] = np.nan
    first, second = RESAMPLES.each_mean(values, clusters)
    alone = RESAMPLES.mean(values[:, 1], clusters)
    assert first == RESAMPLES.each_mean(values, clusters)[0], "each interval draws anew"
    assert (first.value, second.value) == pytest.approx(np.nanmean(values, axis=0))
    assert (second.low, second.high) == pytest.approx((alone.low, alone.high), abs=0.05)


def test_intervals_know_what_they_cannot_say() -> None:
    values = np.arange(6.0)
    assert RESAMPLES.mean(values, np.zeros(6, dtype=int)) == Estimate(2.5)
    assert RESAMPLES.mean(np.full(6, np.nan), np.arange(6)) == Estimate(None)
    assert RESAMPLES.rate(np.zeros(0, dtype=bool), np.arange(0)) == Estimate(None)
    assert RESAMPLES.change(values, values, np.arange(6)) == Estimate(0.0)
    assert RESAMPLES.difference(values, np.ones(6, dtype=bool), np.arange(6)) == Estimate(None)
    one_cluster = np.where(values < 3, 0, np.arange(6))
    assert RESAMPLES.difference(values, values < 3, one_cluster) == Estimate(-3.0)
    assert RESAMPLES.mean(np.ones(6), np.arange(6)).unless_point() == Estimate(1.0)


def test_a_share_takes_the_wider_of_two_intervals_on_each_side() -> None:
    hits = np.arange(60) < 12
    apart = RESAMPLES.rate(hits, np.arange(60))
    exact = clopper_pearson(12, 60, 0.95)
    clustered = RESAMPLES.clustered(hits, np.arange(60))
    assert apart.low == min(exact.low, clustered.low)
    assert apart.high == max(exact.high, clustered.high)
    together = RESAMPLES.rate(hits, np.arange(60) // 6)
    assert known(together.high) > known(apart.high)


def test_windows_that_stand_for_several_count_as_many() -> None:
    hits, weights = np.arange(50) < 10, np.where(np.arange(50) < 10, 1.0, 4.0)
    rate = RESAMPLES.rate(hits, np.arange(50), weights)
    assert rate.value == pytest.approx(10 / 170)
    low, high = ends(rate)
    assert low < 10 / 170 < high < 0.2
    mean = RESAMPLES.mean(hits.astype(float), np.arange(50), weights)
    assert mean.value == pytest.approx(10 / 170)


def test_agreement_in_few_clusters_counts_the_clusters() -> None:
    clusters = np.repeat(np.arange(10), 100)
    none = RESAMPLES.clustered(np.zeros(1000, dtype=bool), clusters)
    everything = RESAMPLES.clustered(np.ones(1000, dtype=bool), clusters)
    assert none == pytest.approx(clopper_pearson(0, 10, 0.95))
    assert everything == pytest.approx(clopper_pearson(10, 10, 0.95))
    assert none.high > 0.3
    shares = RESAMPLES.mean_share(np.zeros(1000), clusters)
    assert (shares.low, shares.high) == pytest.approx(none)


def kinds(seed: int, count: int = 60) -> tuple[Floats, Bools]:
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.3
    return rng.integers(0, 8, count) + 2.0 * positive, positive


@pytest.mark.parametrize("seed", range(5))
def test_ties_count_half_in_an_auc(seed: int) -> None:
    scores, positive = kinds(seed)
    scores[0] = -np.inf
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    auc = RESAMPLES.auc(scores, positive, np.arange(60))
    assert auc.value == pytest.approx(np.mean(pairs))
    assert auc.value == pytest.approx(roc_auc_score(positive, np.maximum(scores, -99)))
    low, high = ends(auc)
    assert low < known(auc.value) < high
    assert RESAMPLES.auc(np.zeros(60), positive, np.arange(60)) == Estimate(0.5, 0.5, 0.5)


def test_an_auc_of_one_kind_only_is_unknown_and_nan_is_refused() -> None:
    every = np.ones(40, dtype=bool)
    assert RESAMPLES.auc(np.arange(40.0), every, np.arange(40)) == Estimate(None)
    with pytest.raises(ValueError, match="NaN"):
        RESAMPLES.auc(np.full(40, np.nan), np.arange(40) < 20, np.arange(40))


def test_auc_intervals_cover_and_know_clusters() -> None:
    """Ten copies of each window are no more evidence than one."""
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        positive = np.repeat(rng.random(60) < 0.5, 10)
        scores, clusters = np.repeat(rng.normal(size=60), 10), np.repeat(np.arange(60), 10)
        auc = replace(RESAMPLES, seed=seed).auc(scores, positive, clusters)
        low, high = ends(auc)
        held += low <= 0.5 <= high
        if seed >= 10:
            continue
        apart = RESAMPLES.auc(scores, positive, np.arange(600))
        assert width(auc) > 2 * width(apart)
    assert held >= 88


def test_too_few_clusters_of_a_kind_give_no_interval() -> None:
    scores = np.arange(300.0)
    few = np.isin(np.arange(300), np.arange(0, 300, 33)[: LEAST_CLUSTERS - 1])
    assert RESAMPLES.auc(scores, few, np.arange(300)).low is None
    assert RESAMPLES.auc(scores, ~few, np.arange(300)).low is None
    assert RESAMPLES.auc(scores, few | (np.arange(300) == 150), np.arange(300)).low is not None


def test_kinds_that_are_wholly_apart_have_an_exact_bound() -> None:
    scores = np.arange(40.0)
    above = RESAMPLES.auc(scores, scores >= 20, np.arange(40))
    assert astuple(above) == (1, pytest.approx(0.025 ** (1 / 20)), 1)
    below = RESAMPLES.auc(-scores, scores >= 20, np.arange(40))
    assert astuple(below) == (0, 0, pytest.approx(1 - 0.025 ** (1 / 20)))


def test_a_band_holds_for_all_figures_at_once() -> None:
    """The largest of 20 normals lies within 3.0 in 95 % of draws; one alone within 1.96."""
    rng = np.random.default_rng(0)
    replicates = Replicates(np.zeros(30), rng.normal(size=(4000, 30)), 0.95)
    band = replicates.simultaneous(np.arange(30) < 20)
    assert band[0].high == pytest.approx(3.02, abs=0.15)
    assert replicates.estimates()[0].high == pytest.approx(1.96, abs=0.12)
    assert band[25] == Estimate(0.0)
    still = Replicates(np.zeros(2), np.zeros((100, 2)), 0.95).simultaneous()
    assert still == [Estimate(0, 0, 0)] * 2


def test_a_band_covers_a_whole_curve_about_as_often_as_it_says() -> None:
    """AUCs of 12 random scores over 100 clusters: all hold a half in about 95 % of trials."""
    held = held_alone = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        positive = np.arange(200) < 100
        clusters = np.arange(200) // 2
        scores = rng.normal(size=(100, 12))[clusters] + rng.normal(size=(200, 12))
        resamples = Resamples(0.95, 200, seed)
        for together in (True, False):
            aucs = resamples.aucs(scores, positive, clusters, together=together)
            holds = all(low <= 0.5 <= high for low, high in map(ends, aucs))
            held, held_alone = held + (together and holds), held_alone + (not together and holds)
    assert held >= 53
    assert held_alone <= 45


def test_a_resample_without_a_positive_leaves_the_band_standing() -> None:
    samples = np.random.default_rng(0).normal(size=(500, 3))
    samples[7, 1] = np.nan
    replicates = Replicates(np.zeros(3), samples, 0.95)
    assert all(estimate.low is not None for estimate in replicates.simultaneous())
    samples[:300, 1] = np.nan
    assert replicates.simultaneous()[1] == replicates.estimates()[1] == Estimate(0.0)


def test_a_generator_goes_on_and_a_number_starts_anew() -> None:
    values, clusters = np.random.default_rng(8).random(80), np.arange(80)
    going = replace(RESAMPLES, seed=np.random.default_rng(0))
    one, two = (going.bootstrap(values, clusters) for _ in range(2))
    assert one == RESAMPLES.bootstrap(values, clusters) == RESAMPLES.bootstrap(values, clusters)
    assert one != two


def test_a_crossed_mean_covers_what_rows_and_columns_share() -> None:
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(25, 1)) + rng.normal(size=(1, 30)) + rng.normal(size=(25, 30))
        values[rng.random(values.shape) < 0.1] = np.nan
        mean = replace(RESAMPLES, seed=seed).crossed(values, np.arange(25), np.arange(30))
        assert mean.value == pytest.approx(np.nanmean(values))
        low, high = ends(mean)
        held += low <= 0 <= high
    assert held >= 90
    assert RESAMPLES.crossed(np.ones((4, 4)), np.arange(4), None) == Estimate(1.0)
    assert RESAMPLES.crossed(np.full((2, 2), np.nan), np.arange(2), None) == Estimate(None)


def test_a_median_lies_between_two_order_statistics() -> None:
    middle = RESAMPLES.median(np.arange(1.0, 22.0))
    assert middle == Estimate(11, 6, 16)  # binomial(21, 1/2): 6 of 21 has 1.3 % below
    assert RESAMPLES.median(np.array([1.0, 2.0, np.inf])) == Estimate(2.0)
    assert RESAMPLES.median(np.zeros(0)) == Estimate(None)
