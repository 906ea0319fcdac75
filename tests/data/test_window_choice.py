from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import build_tokenizer

from memaudit.config.settings import WindowSettings
from memaudit.data.encoding import Encoder
from memaudit.data.samples import Sample, Skipped
from memaudit.data.window_choice import (
    MOST_RECORDS,
    RecordLengths,
    choose_windows,
    measure_records,
)

LONG, SHORT = RecordLengths((100,) * 9 + (20,)), RecordLengths((41,) * 10)
ANSWERS = RecordLengths((), prefixes=(30, 60), suffixes=(90, 24))
BRIEF = RecordLengths((), prefixes=(5, 40), suffixes=(12, 11))
BOTH = RecordLengths((24,) * 8, prefixes=(60,), suffixes=(20,))


@pytest.mark.parametrize(
    ("lengths", "settings", "room", "chosen"),
    [
        (LONG, {}, None, (50, 50, "sliding")),
        (SHORT, {}, None, (50, 16, "sliding")),
        (RecordLengths((9,)), {}, None, (50, 8, "sliding")),
        (RecordLengths(()), {}, None, (50, 8, "sliding")),
        (ANSWERS, {}, None, (104, 16, "sliding")),  # 30 before, and all but 16 of 90
        (RecordLengths((), (900,), (30,)), {}, None, (512, 16, "sliding")),
        (BRIEF, {}, None, (40, 11, "sliding")),
        (BOTH, {}, None, (68, 12, "sliding")),
        # What the user gives stays, and decides with.
        (LONG, {"prefix_tokens": 30}, None, (30, 50, "sliding")),
        (ANSWERS, {"suffix_tokens": 20}, None, (100, 20, "sliding")),
        (ANSWERS, {"placement": "start"}, None, (60, 16, "start")),
        (SHORT, {"placement": "end"}, None, (25, 16, "end")),
        (SHORT, {"prefix_tokens": 30, "placement": "start"}, None, (30, 11, "start")),
        (BOTH, {"placement": "start"}, None, (12, 12, "start")),
        # The model's positions.
        (ANSWERS, {}, 70, (54, 16, "sliding")),
        (LONG, {}, 60, (10, 50, "sliding")),
        (LONG, {}, 40, (8, 32, "sliding")),
        (LONG, {"prefix_tokens": 30}, 45, (30, 15, "sliding")),
        (LONG, {}, -9, (8, 8, "sliding")),  # the check of positions refuses it later
    ],
)
def test_windows_fit_the_records(
    lengths: RecordLengths, settings: dict[str, Any], room: int | None, chosen: tuple[int, int, str]
) -> None:
    choice = choose_windows(WindowSettings(**settings), lengths, room)
    windows = choice.settings
    assert (windows.prefix_tokens, windows.suffix_tokens, windows.placement) == chosen
    assert choice.note.startswith(f"Windows of up to {chosen[0]}+{chosen[1]} tokens, chosen from")
    assert windows.length == chosen[0] + chosen[1]


def test_the_note_gives_the_reasons_in_plain_words() -> None:
    assert choose_windows(WindowSettings(), ANSWERS, None).note == (
        "Windows of up to 104+16 tokens, chosen from the data: a suffix has 16 tokens, as many as "
        "nine in ten of the given suffixes have; its prefix holds all that stands before it. Set "
        "others with --prefix-tokens and --suffix-tokens."
    )
    note = choose_windows(WindowSettings(suffix_tokens=5), LONG, None).note
    assert "from the data: its prefix up to 50, as in the usual benchmark. Set" in note


def test_a_size_that_is_not_chosen_is_no_length() -> None:
    with pytest.raises(ValueError, match="not chosen yet"):
        _ = WindowSettings(prefix_tokens=5).length


def test_records_are_measured_in_the_ids_that_are_cut() -> None:
    tokenizer = build_tokenizer(adds_bos=True)
    texts = ["some of the text", f"{tokenizer.bos_token}some of the text", "text " * 20_000]
    samples: list[Sample | Skipped] = [Sample("a", 1, text=text) for text in texts]
    samples += [Skipped("b", 2, "bad"), Sample("c", 3, prefix="some of", suffix=" the text")]
    samples += [Sample("d", 4, prefix="", suffix="the text")]  # gives no window
    lengths = measure_records(samples, Encoder(tokenizer), np.random.default_rng(0))
    bare, marked, long = lengths.texts
    assert bare == marked == len(tokenizer(texts[0], add_special_tokens=False)["input_ids"])
    assert 100 < long < 20_000  # not all of a long text is tokenised
    assert sum(lengths.prefixes + lengths.suffixes) == bare
    assert len(lengths.prefixes) == len(lengths.suffixes) == 1


def test_many_records_are_measured_at_random_and_alike() -> None:
    encoder = Encoder(build_tokenizer())
    samples = [Sample("a", n, text="a" if n < MOST_RECORDS else "a b c") for n in range(1500)]
    first, again = (measure_records(samples, encoder, np.random.default_rng(0)) for _ in range(2))
    assert first == again
    assert len(first.texts) == MOST_RECORDS
    assert len(set(first.texts)) == 2
