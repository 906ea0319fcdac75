"""Figures with intervals as sentences and cells write them."""

from __future__ import annotations

import math

import pytest

from memaudit.score.estimate import Estimate
from memaudit.score.stats import Interval


@pytest.mark.parametrize(
    ("estimate", "spec", "text"),
    [
        (Estimate(0.78, 0.72, 0.82), "", "0.78 (0.72 to 0.82)"),
        (Estimate(0.9994, 0.9991, 1.0), ".3f", "0.999 (0.999 to 1.000)"),
        (Estimate(-0.012, -0.02, 0.004), "+.3f", "-0.012 (-0.020 to +0.004)"),
        (Estimate(0.5, 0.25, 0.75), "+.2f nats/token", "+0.50 nats/token (+0.25 to +0.75)"),
        (Estimate(0.051, 0.046, 0.057), "share", "5.1 % (4.6 to 5.7)"),
        (Estimate(0.0, 0.0, 0.071), "share", "0 % (at most 7.1 %)"),
        (Estimate(1 - 1e-16, 0.5, 1.0), "share", "100 % (50.0 to 100)"),
        (Estimate(0.5, 0.0, 1.0), "share", "50.0 % (0 to 100)"),
        (Estimate(0.5), "share", "50.0 %"),
        (Estimate(-0.012, -0.019, -0.006), "points points", "-1.2 points (-1.9 to -0.60)"),
        (Estimate(1234.0, 1000.0, None), "count", "1,234 (1,000 to n/a)"),
        (Estimate(None), "share", "n/a"),
        (Estimate(None), "+.2f nats/token", "n/a"),
    ],
)
def test_text_in_a_sentence(estimate: Estimate, spec: str, text: str) -> None:
    assert format(estimate, spec) == text


def test_cells_have_both_ends_and_brackets_can_be_the_sentence_s_own() -> None:
    bound = Estimate(0.0, 0.0, 0.0063)
    assert bound.cell("share") == "0 % (0 to 0.63)"
    assert bound.parts("share") == ("0 %", "at most 0.63 %")
    assert Estimate(None).cell("nats") == "n/a"
    assert Estimate(0.5).parts("share") == ("50.0 %", "")


def test_what_is_not_finite_is_missing() -> None:
    assert Estimate.of(math.nan, Interval(0.0, 1.0)) == Estimate(None, 0.0, 1.0)
    assert Estimate.of(0.5, Interval(math.nan, math.inf)) == Estimate(0.5)


def test_an_interval_lies_above_or_below_only_if_it_is_known() -> None:
    known = Estimate(0.7, 0.6, 0.8)
    assert known.above(0.5)
    assert known.below(0.9)
    assert not known.above(0.6)
    assert not known.below(0.8)
    assert not known.above(None)
    assert not Estimate(0.7).above(0.5)
    assert not Estimate(0.7).below(0.9)


def test_the_wider_end_on_each_side_holds() -> None:
    assert Estimate(0.5, 0.4, 0.6).wider(Interval(0.45, 0.7)) == Estimate(0.5, 0.4, 0.7)
    assert Estimate(0.5).wider(Interval(0.3, 0.7)) == Estimate(0.5, 0.3, 0.7)
