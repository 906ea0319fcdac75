"""Windows without text, templates, how a model reads, and how it goes on: counted from arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import build_tokenizer

from memaudit.pipeline.scoring import decode_rows
from memaudit.score.validity import (
    Reading,
    TokenRoles,
    count_continuations,
    find_templates,
    find_text_faults,
    measure_reading,
)

ROLES = TokenRoles(vocabulary=1000, unknown=0, special=(1, 2), end=(2, 5))
TEXT = "Anna 漢字 wrote 1 2 3 4 to the brown fox; Bert said: 'no' (twice), and left for good."


def letters(ids: np.ndarray) -> tuple[str, ...]:
    """Decode each id to a letter."""
    return tuple("".join(chr(97 + id_ % 26) for id_ in row) for row in ids.tolist())


def text_ids(rows: int, tokens: int, seed: int = 0) -> np.ndarray:
    """Rows of tokens without a role, drawn evenly."""
    return np.random.default_rng(seed).integers(10, 1000, (rows, tokens))


def faults_of(suffix: np.ndarray, prefix: np.ndarray | None = None) -> dict[str, int]:
    """Windows with each fault, of those that have any."""
    prefix = text_ids(len(suffix), 16) if prefix is None else prefix
    found = find_text_faults(prefix, suffix, ROLES, letters)
    names = ("control", "repeated", "unknown", "special")
    return {name: int(rows.sum()) for name in names if (rows := getattr(found, name)).any()}


def test_text_has_no_fault() -> None:
    assert faults_of(text_ids(50, 16, seed=1)) == {}


@pytest.mark.parametrize(
    ("side", "kind"),
    [
        ([7] * 16, "repeated"),
        ([7, 8] * 8, "repeated"),
        ([7, *[9] * 15], "repeated"),
        ([0] * 10 + [11, 12, 13, 14, 15, 16], "unknown"),
        ([1] * 10 + [11, 12, 13, 14, 15, 16], "special"),
        ([1, 2, 1, 2, 2, 1, 1, 2, 2, 11, 12, 13, 14, 15, 16, 17], "special"),
    ],
)
def test_a_side_that_is_no_text_is_named(side: list[int], kind: str) -> None:
    odd, usual = np.array([side]), text_ids(1, 16)
    assert kind in faults_of(odd)
    assert kind in faults_of(usual, prefix=odd)


@pytest.mark.parametrize(
    "side",
    [
        [7, 8, 9] * 5 + [7],  # a period of three: a table may have it, and so may a short answer
        [7, 8, 7, 9, 7, 10, 7, 11, 7, 12, 7, 13, 7, 14, 7, 15],  # indentation between other tokens
        [1, 11, 12, 13, 2, 1, 14, 15, 16, 2, 1, 17, 18, 19, 20, 2],  # turns of a chat
        [7, 7, 7],  # too short to tell
    ],
)
def test_honest_runs_of_tokens_are_text(side: list[int]) -> None:
    assert faults_of(np.array([side])) == {}


def test_the_share_of_the_unknown_token_is_of_all_tokens() -> None:
    suffix, prefix = text_ids(4, 10), text_ids(4, 30)
    suffix[:2] = 0
    found = find_text_faults(prefix, suffix, ROLES, letters)
    assert found.unknown_tokens == pytest.approx(20 / 160)
    whole = TokenRoles(1000, None, (0,), ())  # byte-level: what stands for it is never written
    found = find_text_faults(prefix, suffix, whole, letters)
    assert (found.unknown_tokens, int(found.special.sum())) == (0, 2)


@pytest.mark.parametrize(
    ("text", "is_text"),
    [
        ("\0" * 200, False),
        ("".join(f"{sign}\0" for sign in TEXT), False),  # UTF-16 read as if it were Latin-1
        ("\x01\x02\x03\x1b" * 50, False),
        (" \n \n\n\t " * 40, False),
        ("�" * 100, False),
        (TEXT * 3, True),
        ("漢字語文学校先生日本国人" * 8, True),
        ("🙂🙃😀😁" * 20, True),
        ("0918273645546372819009182736455463728190" * 4, True),
        ("\x1b[0m12:30:01 \x1b[31mERROR\x1b[0m could not open the file; \n" * 4, True),
        ("def f(x):\n        if x:\n            return (x,)\n        return [\n" * 4, True),
    ],
)
def test_text_is_told_from_control_characters_in_bytes(text: str, is_text: bool) -> None:
    tokenizer = build_tokenizer()  # most letters are tokens of one byte
    ids = np.array([tokenizer(text, add_special_tokens=False).input_ids[1:49]])
    roles = TokenRoles(304, None, (0, 1, 2), (1,))
    found = find_text_faults(
        ids[:, :24], ids[:, 24:], roles, lambda rows: decode_rows(tokenizer, rows)
    )
    assert found.control.tolist() == [not is_text]


# Templates.


def templates_of(prefix: np.ndarray, suffix: np.ndarray, controls: np.ndarray | None = None):
    found = find_templates(prefix, suffix, controls)
    return tuple(int(rows.sum()) for rows in (found.suffix, found.prefix, found.in_controls))


def test_records_of_their_own_are_no_template() -> None:
    prefix, suffix = text_ids(100, 8, seed=1), text_ids(100, 8, seed=2)
    assert templates_of(prefix, suffix) == (0, 0, 0)
    assert templates_of(prefix[:1].repeat(100, axis=0), suffix[:1].repeat(100, axis=0)) == (0, 0, 0)


@pytest.mark.parametrize("answers", [1, 3, 15])
def test_few_suffixes_for_many_prefixes_are_template(answers: int) -> None:
    prefix, suffix = text_ids(100, 8, seed=1), text_ids(100, 8, seed=2)
    suffix[:75] = suffix[np.arange(75) % answers]
    assert templates_of(prefix, suffix) == (75, 0, 0)
    assert templates_of(suffix, prefix) == (0, 75, 0)


def test_a_suffix_in_a_control_is_template() -> None:
    prefix, suffix = text_ids(100, 8, seed=1), text_ids(100, 8, seed=2)
    controls = text_ids(50, 16, seed=3)
    assert templates_of(prefix, suffix, controls) == (0, 0, 0)
    controls[:10, 5:13] = suffix[:10]
    assert templates_of(prefix, suffix, controls) == (0, 0, 10)
    short = suffix[:, :4]  # four tokens may stand anywhere
    controls[:, 3:7] = short[:50]
    assert templates_of(prefix, short, controls)[2] == 0


# How a model reads.


@pytest.mark.parametrize("vocabulary", [60, 1000, 50_000, 250_000])
def test_a_uniform_guess_and_random_weights_read_by_chance(vocabulary: int) -> None:
    ids = np.random.default_rng(0).zipf(1.3, (200, 50)) % min(vocabulary, 1000)
    uniform = np.full(200, math.log(vocabulary))
    for nll in (uniform, uniform + 0.02, uniform + 2.5):
        reading = measure_reading(ids, nll, vocabulary)
        assert reading is not None
        assert reading.is_chance


@pytest.mark.parametrize(
    ("nll", "frequencies", "vocabulary"),
    [
        (5.93, 7.32, 8192),  # unseen English, a small model
        (6.93, 6.62, 8192),  # code, a model that was not trained on it
        (6.33, 5.18, 8192),  # base64
        (6.34, 4.50, 8192),  # random digits
        (6.92, 2.34, 8192),  # random letters of DNA
        (2.30, 2.30, 50_257),  # digits, a model that knows that they are
        (1.40, 1.386, 8),  # DNA, a model of nucleotides
        (2.80, 2.89, 33),  # a protein, a model of amino acids
    ],
)
def test_hard_text_is_not_read_by_chance(nll: float, frequencies: float, vocabulary: int) -> None:
    assert not Reading(nll, frequencies, math.log(vocabulary)).is_chance


def test_half_of_the_windows_decide() -> None:
    ids, nll = text_ids(100, 16), np.full(100, 9.0)
    nll[:51] = 3.0
    reading = measure_reading(ids, nll, 1000)
    assert reading is not None
    assert not reading.is_chance
    assert measure_reading(ids, np.full(100, np.nan), 1000) is None


def test_frequencies_leave_each_token_out() -> None:
    one_each = measure_reading(np.arange(40).reshape(4, 10), np.zeros(4), 1000)
    assert one_each is not None
    assert one_each.frequencies > one_each.uniform  # nothing is known of the next token
    coin = measure_reading(np.tile([3, 4], (50, 20)), np.zeros(50), 1000)
    assert coin is not None
    assert coin.frequencies == pytest.approx(math.log(2), abs=0.01)


# How it goes on.


def test_continuations_that_end_at_once() -> None:
    suffix = text_ids(10, 8)
    continuation = text_ids(10, 8, seed=1)
    continuation[:4, 0] = 2
    continuation[4, 1] = 5
    continuation[5, 2] = 5  # two tokens come before it
    continuation[6] = suffix[6]  # comes out
    continuation[7:, 0] = suffix[7:, 0] = 2  # the suffix itself begins with it
    found = count_continuations(continuation, suffix, ROLES)
    assert (found.windows, found.ended, found.alike) == (9, 5, 1)


def test_continuations_that_are_all_the_same() -> None:
    suffix, continuation = text_ids(10, 8), np.tile(np.arange(20, 28), (10, 1))
    continuation[0] = suffix[0]
    found = count_continuations(continuation, suffix, ROLES)
    assert (found.windows, found.ended, found.alike) == (9, 0, 9)
