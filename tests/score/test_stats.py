from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memaudit.score.stats import (
    Clustered,
    Contrast,
    Interval,
    agreeing,
    bounded_mean,
    clopper_pearson,
    contrast,
    difference,
    paired_clustered,
    paired_exact,
)


def binomial(k: int, n: int, rate: float) -> float:
    return math.comb(n, k) * rate**k * (1 - rate) ** (n - k)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 100, 0.0, 0.036217),
        (0, 1000, 0.0, 0.0036821),
        (100, 100, 0.963783, 1.0),
        (1, 10, 0.0025286, 0.4450161),
        (5, 10, 0.1870860, 0.8129140),
    ],
)
def test_clopper_pearson_reference_values(k, n, low, high):
    assert clopper_pearson(k, n, 0.95) == pytest.approx((low, high), rel=2e-5)


@given(st.data(), st.integers(1, 60), st.floats(0.5, 0.999))
def test_clopper_pearson_ends_have_the_tails_they_promise(data, n, confidence):
    k = data.draw(st.integers(0, n))
    low, high = clopper_pearson(k, n, confidence)
    tail = (1 - confidence) / 2
    assert 0 <= low <= k / n <= high <= 1
    if k > 0:
        assert sum(binomial(i, n, low) for i in range(k, n + 1)) == pytest.approx(tail)
    if k < n:
        assert sum(binomial(i, n, high) for i in range(k + 1)) == pytest.approx(tail)


def test_clopper_pearson_without_trials_says_nothing():
    assert clopper_pearson(0, 0, 0.95) == (0, 1)


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, -1)])
def test_clopper_pearson_refuses_impossible_counts(k, n):
    with pytest.raises(ValueError, match="hits"):
        clopper_pearson(k, n, 0.95)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=14))
def test_mcnemar_is_the_share_of_coin_flips_as_uneven(pairs):
    a, b = np.array(pairs, dtype=bool).reshape(-1, 2).T
    found = paired_exact(a, b)
    changes = [x - y for x, y in pairs if x != y]
    assert (found.gained, found.lost) == (changes.count(1), changes.count(-1))
    signs = list(product((-1, 1), repeat=len(changes)))
    as_far = sum(abs(sum(flip)) >= abs(sum(changes)) for flip in signs)
    assert found.p_value == pytest.approx(as_far / len(signs))


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), max_size=24),
    st.integers(0, 10),
)
def test_clustered_test_is_the_share_of_sign_flips_as_uneven(rows, seed):
    a, b, clusters = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    found = paired_clustered(
        a.astype(bool), b.astype(bool), clusters, 4000, np.random.default_rng(seed)
    )
    sums = [int((a - b)[clusters == c].sum()) for c in np.unique(clusters)]
    flips = [np.dot(f, sums) for f in product((-1, 1), repeat=len(sums))] or [0]
    true = np.mean(np.abs(flips) >= abs(sum(sums)))
    assert 0 < found <= 1
    assert found == pytest.approx(true, abs=0.05)


def test_clustered_test_does_not_take_one_cluster_for_many():
    a, b = np.ones(20, dtype=bool), np.zeros(20, dtype=bool)
    rng = np.random.default_rng(5)
    assert paired_exact(a, b).p_value < 1e-5
    assert paired_clustered(a, b, np.zeros(20, dtype=np.int64), 999, rng) == 1
    assert paired_clustered(a, b, np.arange(20), 999, rng) == 1 / 1000


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40), st.integers(1, 40))
def test_difference_holds_the_estimate_and_turns_with_its_arms(k1, k2, n1, n2):
    k1, k2 = min(k1, n1), min(k2, n2)
    low, high = difference(k1, n1, k2, n2, 0.95)
    assert -1 <= low <= k1 / n1 - k2 / n2 <= high <= 1
    assert difference(k2, n2, k1, n1, 0.95) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("first", "second"), [(0.02, 0.0), (0.3, 0.25), (0.9, 0.1)])
def test_difference_covers_at_least_as_often_as_it_says(first, second):
    n1, n2 = 40, 25
    covered = 0.0
    for k1, k2 in product(range(n1 + 1), range(n2 + 1)):
        low, high = difference(k1, n1, k2, n2, 0.9)
        if low <= first - second <= high:
            covered += binomial(k1, n1, first) * binomial(k2, n2, second)
    assert covered >= 0.9


def test_difference_without_controls_says_only_what_the_data_says():
    low, high = difference(3, 10, 0, 0, 0.95)
    assert -1 < low < high < 1
    assert difference(0, 0, 0, 0, 0.95) == (-1, 1)


def clustered(k: int, sizes: list[int], together: bool) -> Clustered:
    """``k`` clusters hit whole, or the first ``k`` windows of each hit."""
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    place = np.concatenate([np.arange(size) for size in sizes]) if sizes else clusters
    return Clustered((clusters if together else place) < k, clusters)


SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=30)


@given(st.integers(0, 30), SIZES, st.integers(0, 30), SIZES, st.booleans(), st.booleans())
def test_p_value_and_interval_of_a_contrast_say_the_same(k1, sizes1, k2, sizes2, whole1, whole2):
    first, second = clustered(k1, sizes1, whole1), clustered(k2, sizes2, whole2)
    found = contrast(first, second, 0.95)
    low, high = found.interval
    assert -1 <= low <= first.hits.mean() - second.hits.mean() <= high <= 1
    assert (found.p_value < 1 - 0.95) == (low > 0 or high < 0)
    assert contrast(second, first, 0.95).interval == pytest.approx((-high, -low))
    stricter = contrast(first, second, 0.99)
    assert stricter.interval.low <= low
    assert high <= stricter.interval.high
    assert stricter.p_value == pytest.approx(found.p_value, rel=1e-6)


def test_a_contrast_takes_a_cluster_as_one_trial():
    # 12 of 200 and 0 of 100: windows of their own tell the arms apart, two clusters do not.
    alone = contrast(clustered(12, [1] * 200, True), clustered(0, [1] * 100, True), 0.95)
    assert alone.p_value < 0.05
    assert alone.interval == pytest.approx((0.0139, 0.1025), abs=1e-3)
    pairs = [6, 6] + [1] * 188
    together = contrast(clustered(2, pairs, True), clustered(0, [1] * 100, True), 0.95)
    assert together.p_value > 0.05
    assert together.interval.low < 0


@pytest.mark.parametrize(("first", "second"), [(0.06, 0.06), (0.3, 0.25), (0.9, 0.1)])
@pytest.mark.parametrize("size", [1, 20])
def test_a_contrast_covers_at_least_as_often_as_it_says(first, second, size):
    """Windows of a cluster agree; every outcome of 40 and 25 clusters, by its probability."""
    covered = differs = 0.0
    for k1, k2 in product(range(41), range(26)):
        weight = binomial(k1, 40, first) * binomial(k2, 25, second)
        if weight < 1e-5:
            continue
        arms = clustered(k1, [size] * 40, True), clustered(k2, [size] * 25, True)
        found = contrast(*arms, 0.9)
        covered += weight * (found.interval.low <= first - second <= found.interval.high)
        differs += weight * (found.p_value < 0.1)
    assert covered >= 0.895
    assert first != second or differs <= 0.1


@pytest.mark.parametrize(("n1", "n2"), [(0, 5), (5, 0), (0, 0)])
def test_a_contrast_without_an_arm_shows_nothing(n1, n2):
    arms = clustered(0, [1] * n1, True), clustered(0, [1] * n2, True)
    assert contrast(*arms, 0.95) == Contrast(Interval(-1, 1), 1.0)


# The mean of bounded values.


def ones(n):
    return np.ones(n, dtype=np.int64)


@pytest.mark.parametrize("n", [1, 30, 5000])
def test_a_bounded_mean_of_nothing_but_zeros_is_a_rate_of_zero(n):
    assert bounded_mean(0.0, ones(n), 0.95) == pytest.approx(clopper_pearson(0, n, 0.95))
    assert bounded_mean(1.0, ones(n), 0.95) == pytest.approx(clopper_pearson(n, n, 0.95))


@pytest.mark.parametrize(("mean", "n"), [(0.2, 1000), (0.5, 7), (0.999, 400), (1e-6, 50)])
def test_the_ends_of_a_bounded_mean_are_as_improbable_as_they_should_be(mean, n):
    for end in bounded_mean(mean, ones(n), 0.9):
        entropy = mean * math.log(mean / end) + (1 - mean) * math.log((1 - mean) / (1 - end))
        if 1e-12 < end < 1 - 1e-12:
            assert 2 * math.exp(-n * entropy) == pytest.approx(0.1)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_bounded_mean_covers_coins_and_is_wider_than_their_exact_interval(share):
    n, rng = 60, np.random.default_rng(0)
    hits = rng.binomial(n, share, 400)
    made = [bounded_mean(k / n, ones(n), 0.95) for k in hits.tolist()]
    assert np.mean([low <= share <= high for low, high in made]) >= 0.95
    for k in (1, 10, 59):
        exact, bounded = clopper_pearson(k, n, 0.95), bounded_mean(k / n, ones(n), 0.95)
        assert bounded.high - bounded.low > exact.high - exact.low


def test_a_bounded_mean_of_no_values_says_nothing():
    assert bounded_mean(0.0, ones(0), 0.95) == (0.0, 1.0)
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        bounded_mean(float("nan"), ones(5), 0.95)


# Clusters that differ in size.


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("large", [900, 50, 3])
def test_one_large_cluster_leaves_the_coverage_nominal(share, large):
    sizes, rng = np.array([large, *[1] * 100]), np.random.default_rng(0)
    drawn = rng.random((4000, 101)) < share
    means, counts = np.unique(drawn @ sizes / sizes.sum(), return_counts=True)
    made = [bounded_mean(mean, sizes, 0.9) for mean in means.tolist()]
    assert counts @ [high < share for _, high in made] / 4000 <= 0.05
    assert counts @ [low > share for low, _ in made] / 4000 <= 0.05


def test_a_bounded_mean_is_by_the_narrower_of_two_bounds():
    # One of 900 and 100 of 1: n = 1 / sum w^2 = 1.234; KL alone would take n = 1 / 0.9.
    sizes = np.array([900, *[1] * 100])
    reach = math.sqrt(math.log(40) * (0.81 + 1e-4) / 2)
    assert 0.9 < bounded_mean(0.05, sizes, 0.95).high <= 0.05 + reach
    # A hundred of 10 and one of 11: as good as equal, where KL is narrower.
    nearly = bounded_mean(0.05, np.array([11, *[10] * 99]), 0.95)
    assert nearly == pytest.approx(bounded_mean(0.05, ones(100), 0.95), rel=0.1)
    # Two of 30 in 160: plain Hoeffding is narrower at a half.
    shares = np.array([30, 30, *[1] * 100]) / 160
    reach = math.sqrt(math.log(40) * float(shares @ shares) / 2)
    found = bounded_mean(0.5, np.array([30, 30, *[1] * 100]), 0.95)
    assert found == pytest.approx((0.5 - reach, 0.5 + reach))


def test_agreement_is_bounded_by_the_worst_that_the_clusters_allow():
    assert agreeing(ones(40), False, 0.95) == pytest.approx(clopper_pearson(0, 40, 0.95))
    # With 2.5 %, the one large cluster may have been hit with up to 97.5 %.
    assert agreeing(np.array([10**6, 1]), False, 0.95).high == pytest.approx(0.975, abs=1e-5)
    nearly = agreeing(np.array([2, *[1] * 998]), False, 0.95).high
    assert nearly == pytest.approx(clopper_pearson(0, 999, 0.95).high, rel=0.15)
    sizes = np.array([1, 6, 2, 3, 1])
    found = agreeing(sizes, False, 0.95).high
    assert agreeing(sizes, True, 0.95) == (1 - found, 1)
    # No other chances that leave "none hit" as probable have a larger mean.
    rng = np.random.default_rng(0)
    logs = rng.dirichlet(np.full(5, 0.5), 20_000) * math.log(0.025)
    means = (1 - np.exp(logs)) @ sizes / 13
    assert found - 0.02 < means.max() <= found
