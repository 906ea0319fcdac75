from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memaudit.report.wording import (
    count,
    gate_label,
    level,
    neutral,
    p_value,
    percent_interval,
    points_interval,
    shorten,
)
from memaudit.score.estimate import number, percent, points
from memaudit.score.stats import Interval, clopper_pearson


@pytest.mark.parametrize(
    ("name", "threshold", "shown"),
    [
        ("max-exact", 0.01, "max-exact 1 %"),
        ("max-fractional", 0.305, "max-fractional 30.5 %"),
        ("max-lift", 0.05, "max-lift 5 points"),
        ("max-new", 3.0, "max-new 3"),
        ("max-new", 0.0, "max-new 0"),
        ("controls", 0.2, "controls"),
        ("max-exact", None, "max-exact"),
    ],
)
def test_a_gate_says_what_it_allows(name, threshold, shown):
    assert gate_label(name, threshold) == shown


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.123456, "12.3 %"),
        (0.0282, "2.8 %"),
        (0.00282, "0.28 %"),
        (0.9999, "99.990 %"),
        (1e-9, "0.00000010 %"),
        (math.nan, "n/a"),
    ],
)
def test_percentages_keep_two_digits_near_both_ends(share, shown):
    assert percent(share) == shown


@given(st.floats(1e-12, 1 - 1e-12))
def test_only_zero_looks_like_zero_and_only_one_like_one(share):
    assert 0 < float(percent(share).removesuffix(" %")) < 100


def test_an_interval_from_zero_is_its_upper_bound():
    assert percent_interval(clopper_pearson(0, 1305, 0.95)) == "at most 0.28 %"
    assert percent_interval(Interval(0.106, 0.142)) == "10.6–14.2 %"
    assert percent_interval(Interval(0, 1)) == "0–100 %"


def test_differences_have_a_sign():
    assert [points(d) for d in (0.041, -0.5, 0, math.nan)] == ["+4.1", "-50.0", "0", "n/a"]
    assert points_interval(Interval(-0.01, 0.2)) == "-1.0 to +20.0"


def test_small_words():
    assert [count(1, "window"), count(1305, "window")] == ["1 window", "1,305 windows"]
    assert [level(0.95), level(0.001), level(0.1)] == ["95 %", "0.1 %", "10 %"]
    assert [number(2.126), number(math.nan), number(math.inf)] == ["2.13", "-", "-"]
    assert p_value(1.234e-9) == "p = 1.2e-09"
    assert [shorten("abcdef", 6), shorten("abcdef", 4)] == ["abcdef", "abc…"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcödé, 漢字, 🙂", "plain, ünïcödé, 漢字, 🙂"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
        ("\x1b[31mred\x1b]8;;x\x07", r"\x1b[31mred\x1b]8;;x\x07"),
        ("\x9b2J\x7f\x00", r"\x9b2J\x7f\x00"),
        ("a\r\nb\tc\u2028d\x85", r"a\r\nb\tc\u2028d\x85"),
        ("\u202egnp.exe\u2066\ufeff", r"\u202egnp.exe\u2066\ufeff"),
        ("\ud800 \ue000", r"\ud800 \ue000"),
        ("👩\u200d💻", "👩\u200d💻"),
    ],
)
def test_what_a_terminal_would_act_on_becomes_visible(text, shown):
    assert neutral(text) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_no_control_character_gets_through(text):
    shown = neutral(text)
    allowed = set("\u200c\u200d")
    assert not {c for c in shown if unicodedata.category(c)[0] == "C"} - allowed
    assert len(shown.splitlines()) <= 1
    assert neutral(shown) == shown
    shown.encode("utf-8")
