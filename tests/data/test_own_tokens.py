"""Which tokens of a window show something about its record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from made_windows import chain, windows_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from memaudit.config.settings import WindowSettings
from memaudit.data.own_tokens import TemplateTokens, count_template
from memaudit.data.samples import Sample
from memaudit.data.template import NO_TEMPLATE, find_template
from memaudit.data.windows import Windows, cut_windows

DEVANAGARI = [chr(code) for code in range(0x0915, 0x0929)]
IDEOGRAPHS = [chr(code) for code in range(0x4E00, 0x4E40)]


def byte_tokenizer() -> Any:
    """Every byte is a token."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({sign: number for number, sign in enumerate(signs)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def cut(texts: list[str], prefix: int = 40, suffix: int = 16) -> Windows:
    samples = [Sample(str(line), line, text=text) for line, text in enumerate(texts, 1)]
    settings = WindowSettings(
        prefix_tokens=prefix, suffix_tokens=suffix, placement="sliding", stride=8
    )
    return cut_windows(samples, byte_tokenizer(), settings, np.random.default_rng(0))


def counted(windows: Windows) -> TemplateTokens:
    return count_template(windows, find_template([windows], 20))


@pytest.mark.parametrize(
    ("signs", "words"),
    [(DEVANAGARI, 1), (IDEOGRAPHS[:12], 1), (list("et "), 1), (IDEOGRAPHS, 2)],
    ids=["Devanagari", "ideographs", "letters", "two ideographs a word"],
)
def test_a_text_of_common_letters_is_no_template(signs: list[str], words: int) -> None:
    """Each byte, letter and pair of letters stands in more than a tenth of these records."""
    rng = np.random.default_rng(0)
    vocabulary = ["".join(rng.choice(signs, words)) for _ in range(40 if words > 1 else 0)]
    texts = ["".join(rng.choice(vocabulary or signs, 150)) for _ in range(100)]
    assert not counted(cut(texts)).in_window.any()


def test_a_piece_of_few_tokens_and_many_letters_between_slots_is_template() -> None:
    """Three words between a copied slot and one of the record's own are the template's."""
    rng = np.random.default_rng(0)
    thanks, has_the_number = list(range(10, 20)), [20, 21, 22, 23]
    items, codes = 100 + rng.permutation(90), 1000 + rng.permutation(360).reshape(90, 4)
    rows = [
        [5, 6, item, *thanks, item, *has_the_number, *code]
        for item, code in zip(items.tolist(), codes.tolist(), strict=True)
    ]
    windows = windows_of(np.array(rows), 3)
    letters = np.full(2000, 4, dtype=np.float32)
    tokens = counted(replace(windows, letters=letters))
    assert set(tokens.suffix.tolist()) == {15}
    letters[has_the_number] = 1
    assert set(counted(replace(windows, letters=letters)).suffix.tolist()) == {10}


def test_a_template_run_that_the_windows_end_cuts_is_template() -> None:
    rng = np.random.default_rng(0)
    own = 100 + rng.permutation(1200).reshape(60, 20)
    rows = [[*row[:14].tolist(), *range(10, 22), *row[14:].tolist()] for row in own]
    windows = chain(rows, 8, 8, 8)  # the template's first two tokens end the first suffix
    tokens = counted(windows)
    assert tokens.suffix.reshape(60, -1).tolist() == [[2, 8, 2]] * 60
    assert tokens.new.tolist() == tokens.suffix.tolist()
    alone = replace(windows, sample=np.arange(len(windows)))
    assert set(counted(alone).suffix[::3].tolist()) == {0}


def test_a_few_tokens_of_a_piece_that_another_window_holds_show_nothing() -> None:
    """A model guesses the first digits of a number in one of ten or a hundred records."""
    before, after = list(range(10, 31)), list(range(40, 61))
    rng = np.random.default_rng(0)
    codes = (1000 + rng.permutation(240)).reshape(60, 4).tolist()
    rows = [[*before, *code, *after] for code in codes]
    windows = chain(rows, 6, 16, 8)  # suffixes of tokens 6-22, 14-30 and 22-38; codes at 21-25
    own = 16 - counted(windows).suffix.reshape(60, -1)
    assert own.tolist() == [[0, 4, 3, 0]] * 60
    # Without the window that holds all of them, the first token is what there is.
    first = windows_of(windows.ids[::4], 6)
    assert set(counted(first).suffix.tolist()) == {15}


def test_half_of_a_long_piece_still_shows_its_record() -> None:
    rng = np.random.default_rng(0)
    own = (1000 + rng.permutation(60 * 24)).reshape(60, 24).tolist()
    rows = [[*range(10, 26), *row, *range(40, 56)] for row in own]
    tokens = counted(chain(rows, 8, 16, 16))  # suffixes 8-24, 24-40, 40-56
    assert (16 - tokens.suffix).reshape(60, -1).tolist() == [[8, 16, 0]] * 60


def test_what_repeats_its_prefix_is_template_too() -> None:
    """A greeting with the name that the prompt gives is copied, not remembered."""
    greeting, sorry = [1, 2, 3], [4, 5, 6, 7, 8, 9]
    rng = np.random.default_rng(0)
    names = 100 + rng.permutation(600).reshape(200, 3)
    codes = 1000 + rng.permutation(400).reshape(200, 2)
    prefix = np.concatenate([np.full((200, 3), 50), names, np.full((200, 3), 60)], axis=1)
    rows = [
        np.concatenate([before, greeting, name, sorry, code if code[0] % 2 else [4, 5]])
        for before, name, code in zip(prefix, names, codes, strict=True)
    ]
    windows = windows_of(np.array(rows), 9, new_tokens=np.full(200, 6))
    tokens = counted(windows)
    has_code = codes[:, 0] % 2 == 1
    assert (tokens.suffix[~has_code] == 14).all()
    assert (tokens.suffix[has_code] == 12).all()
    assert (tokens.new[has_code] == 4).all()
    # As bytes, the ids 1 and 256 hold the id 65536, which is in none of them.
    shifted = windows_of(np.array([[1, 256, 65536, 7]]), 2)
    assert count_template(shifted, NO_TEMPLATE).suffix.tolist() == [0]
