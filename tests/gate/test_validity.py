"""A run that means nothing is inconclusive, by name; what is odd in a few windows is a note."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memaudit.gate.thresholds import GateVerdict, exit_code
from memaudit.gate.validity import Validity, judge_validity, remnant, validity_notes
from memaudit.score.validity import Continuations, Reading, Templates, TextFaults

N = 100
READS = Reading(nll=3.0, frequencies=7.0, uniform=math.log(50_000))
GUESSES = Reading(nll=10.8, frequencies=7.0, uniform=math.log(50_000))


def first(count: int) -> np.ndarray:
    return np.arange(N) < count


def made(
    *,
    faults: dict[str, int] | None = None,
    templates: dict[str, int] | None = None,
    unknown: float = 0.0,
    **more: Any,
) -> Validity:
    """A hundred windows, so many of them at the beginning with each fault."""
    text = {"control": 0, "repeated": 0, "unknown": 0, "special": 0} | (faults or {})
    sides = {"suffix": 0, "prefix": 0, "in_controls": 0} | (templates or {})
    whole = Validity(
        text=TextFaults(**{k: first(n) for k, n in text.items()}, unknown_tokens=unknown),
        templates=Templates(**{k: first(n) for k, n in sides.items()}),
        lines=np.arange(1, N + 1),
        records=N,
        used=N,
        template_samples=max(sides.values()),
        readings={"data": READS},
    )
    return replace(whole, **more)


def test_a_sound_run_has_no_verdict_and_no_note() -> None:
    assert judge_validity(made()) is None
    assert validity_notes(made()) == ()
    assert judge_validity(made(lines=np.arange(0))) is None


@pytest.mark.parametrize(
    ("void", "noted", "words"),
    [
        (
            made(misread=first(11)),
            made(misread=first(10)),
            "have token ids that do not decode to their text (lines 1, 2, 3, 4, 5, …)",
        ),
        (
            made(chats=20, changed_chats=3),
            made(chats=20, changed_chats=2),
            "of 20 chats",
        ),
        (
            made(faults={"repeated": 51}),
            made(faults={"repeated": 50}),
            "not text (51 the same few tokens over and over; lines 1, 2, 3, 4, 5, …)",
        ),
        (
            made(faults={"control": 40, "special": 60}),
            made(faults={"special": 1}),
            "40 only spaces, or control or replacement characters, 60 mostly padding",
        ),
        (made(unknown=0.11), made(unknown=0.1), "11 % of the tokens are the tokenizer's unknown"),
        (
            made(templates={"suffix": 51}),
            made(templates={"suffix": 50}),
            "51 of 100 windows (51 %) contain only template text",
        ),
        (
            made(templates={"in_controls": 80}),
            made(templates={"in_controls": 2}),
            "in the controls",
        ),
        (made(templates={"prefix": 51}), made(templates={"prefix": 9}), "have a prefix that other"),
        (made(records=1001), made(records=1000), "Only 100 of 1,001 records gave a window"),
    ],
)
def test_what_is_common_voids_the_run_and_what_is_rare_is_noted(
    void: Validity, noted: Validity, words: str
) -> None:
    verdict = judge_validity(void)
    assert verdict is not None
    assert (verdict.name, verdict.verdict) == ("validity", "inconclusive")
    assert words in verdict.reason
    assert judge_validity(noted) is None
    assert len(validity_notes(noted)) == 1


@pytest.mark.parametrize(
    ("readings", "extracted", "void"),
    [
        ({"data": GUESSES}, 0, True),
        ({"data": GUESSES}, 1, True),
        ({"data": GUESSES}, 2, False),  # what comes out, came out
        ({"data": GUESSES, "controls": GUESSES}, 0, True),
        ({"data": GUESSES, "controls": READS}, 0, False),  # hard data, a sound model
        ({"data": READS, "controls": GUESSES}, 0, False),
        ({"controls": GUESSES}, 0, True),  # no window of the data holds text
        ({}, 0, False),
    ],
)
def test_a_model_that_reads_by_chance(
    readings: dict[str, Reading], extracted: int, void: bool
) -> None:
    verdict = judge_validity(made(readings=readings, extracted=extracted))
    assert (verdict is not None) == void
    if verdict is not None:
        assert "10.8 on the " in verdict.reason
        assert ("only 1 are extracted" in verdict.reason) == (extracted == 1)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Continuations(100, 91, 91), "After 91 of the 100 prefixes"),
        (Continuations(50, 46, 0), "ends its answer at once"),
        (Continuations(100, 0, 91), "the same output"),
        (Continuations(100, 90, 90), None),
        (Continuations(49, 49, 49), None),  # most come out
        (Continuations(0, 0, 0), None),
    ],
)
def test_continuations(found: Continuations, words: str | None) -> None:
    verdict = judge_validity(made(continuations=found))
    assert (verdict is not None) == (words is not None)
    if verdict is not None and words is not None:
        assert words in verdict.reason


def test_every_reason_is_given() -> None:
    verdict = judge_validity(made(faults={"control": 99}, readings={"data": GUESSES}))
    assert verdict is not None
    assert "not text" in verdict.reason
    assert "by chance" in verdict.reason


def test_a_gate_that_fails_stays_failed() -> None:
    void = judge_validity(made(unknown=1.0))
    assert void is not None
    passed, failed = (
        GateVerdict("max-exact", 0.1, "none", 0.0, 0.0, verdict, "") for verdict in ("pass", "fail")
    )
    assert exit_code([void, passed]) == 4
    assert exit_code([void]) == 4
    assert exit_code([void, failed]) == 1


def test_fewer_than_half_of_the_records_are_a_remnant() -> None:
    assert remnant(50, 100) is None
    assert str(remnant(49, 100)).startswith("Only 49 of 100 records gave a window")
