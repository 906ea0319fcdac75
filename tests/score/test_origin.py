"""Where what a fine-tuned model gives away comes from, counted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from memaudit.config.settings import ScoreSettings
from memaudit.score.origin import ANY, Origin, Pair, origins
from memaudit.score.samples import Grouping, SampleScores, score_samples
from memaudit.score.scores import WindowScores
from memaudit.score.stats import clopper_pearson

SETTINGS = ScoreSettings(bootstrap=200)


def scores(exact: str, nll: list[float]) -> SampleScores:
    """``exact``: a digit for each sample, which has one window."""
    n = len(exact)
    hit = np.array([one == "1" for one in exact])
    whole, none = np.where(hit, 5, 0), np.zeros(n)
    windows = WindowScores(hit, hit * 1.0, whole, whole, hit * 1.0, np.array(nll), none)
    return score_samples(windows, Grouping.one_each(np.arange(n)))


def paired(target: str, reference: str) -> Pair:
    n = len(target)
    return Pair("none", scores(target, [1.0] * n), scores(reference, [2.0] * n))


def fates(origin: Origin) -> tuple[int, int, int, int]:
    return origin.known, origin.leaked.k, origin.forgotten, origin.neither


def test_every_sample_is_one_of_four() -> None:
    (one, together) = origins([paired("11100000", "10010000")], np.arange(8), SETTINGS, [0])
    assert (one.attack, together.attack) == ("none", ANY)
    assert fates(one) == fates(together) == (1, 2, 1, 4)
    assert (one.leaked.n, one.leaked.estimate) == (8, 0.25)
    assert one.leaked.interval == clopper_pearson(2, 8, 0.95)
    assert one.p_value == 1.0  # two against one


def test_any_is_over_all_attacks_of_each_model() -> None:
    pairs = [paired("1000", "0000"), Pair("dynamic", *_other())]
    first, second, together = origins(pairs, np.arange(4), SETTINGS, [0])
    assert fates(first) == (0, 1, 0, 3)
    assert fates(second) == (0, 1, 1, 2)
    # Sample 0: by none from the target, by dynamic from the reference.
    assert fates(together) == (1, 1, 0, 2)
    assert together.nll.target == pytest.approx((0.5 + 1 + 1 + 1) / 4)
    assert together.nll.reference == pytest.approx(2.0)


def _other() -> tuple[SampleScores, SampleScores]:
    return scores("0100", [0.5, 3, 3, 3]), scores("1000", [2, 2, 9, math.nan])


def test_the_change_of_the_nll_is_paired_and_resampled_by_cluster() -> None:
    target = scores("0000", [1.0, 2.0, math.nan, 4.0])
    reference = scores("0000", [2.0, 2.5, 1.0, math.inf])
    one, _ = origins([Pair("none", target, reference)], np.array([0, 1, 2, 3]), SETTINGS, [0])
    assert one.nll.change == pytest.approx(-0.75)  # of the two samples that have both
    assert (one.nll.target, one.nll.reference) == (1.5, 2.25)
    assert -1.0 <= one.nll.interval.low <= one.nll.interval.high <= -0.5
    same = scores("0000", [math.nan] * 4)
    nothing, _ = origins([Pair("none", same, reference)], np.arange(4), SETTINGS, [0])
    assert math.isnan(nothing.nll.change)
    assert math.isnan(nothing.nll.interval.low)


def test_copies_of_one_text_are_one_change() -> None:
    pair = paired("1" * 12 + "0" * 12, "0" * 24)
    apart, _ = origins([pair], np.arange(24), SETTINGS, [0])
    copies, _ = origins([pair], np.repeat([0, *range(1, 13)], [12, *[1] * 12]), SETTINGS, [0])
    assert apart.p_value == copies.p_value == pytest.approx(2 / 2**12)
    assert apart.clustered_p_value < 0.05
    assert copies.clustered_p_value > 0.5
    assert copies.leaked.clustered.high > apart.leaked.clustered.high


def test_the_same_seed_draws_the_same() -> None:
    pair = paired("1100101", "0100001")
    assert origins([pair], np.arange(7), SETTINGS, [3]) == origins(
        [pair], np.arange(7), SETTINGS, [3]
    )
    assert origins([], np.arange(7), SETTINGS, [3]) == ()
