from __future__ import annotations

from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from memaudit.attack.copying import copy_continuations
from memaudit.data.run_hashes import run_hashes
from memaudit.data.windows import PADDING

Ids = NDArray[np.int32]


def copy_slowly(known: Ids, prefix: Ids, suffix_tokens: int) -> list[int]:
    """Follow the docstring literally."""
    for length in range(min(len(prefix), known.shape[1] - 1), 0, -1):
        places = [
            (row, start + length)
            for start in range(known.shape[1] - length)
            for row in range(len(known))
            if (known[row, start : start + length] == prefix[-length:]).all()
        ]
        if places:
            row, after = places[0]  # earliest start: the most tokens after it
            copied = known[row, after : after + suffix_tokens].tolist()
            return copied + [-1] * (suffix_tokens - len(copied))
    return [-1] * suffix_tokens


@settings(max_examples=150)
@given(st.data(), st.integers(1, 3), st.integers(1, 8))
def test_copying_finds_what_a_slow_search_finds(data: st.DataObject, rows: int, seed: int) -> None:
    """However few windows are looked through at a time, and however short the first matches."""
    number = st.integers(1, 7)
    tokens, width, count, prefix, suffix = (data.draw(number) for _ in range(5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    known = rng.integers(0, tokens, (count, width + 1)).astype(np.int32)
    prefixes = rng.integers(0, tokens + 1, (4, prefix)).astype(np.int32)
    prefixes[0, : prefix // 2] = PADDING
    known[0, : width // 2] = PADDING
    with mock.patch.multiple("memaudit.attack.copying", _ROWS=rows, _SEED=seed):
        copied_ids = copy_continuations(known, prefixes, suffix)
    assert copied_ids.dtype == np.int32
    assert copied_ids.tolist() == [copy_slowly(known, row, suffix) for row in prefixes]


def test_the_longest_match_wins_over_the_first() -> None:
    known = np.array([[3, 7, 7, 7], [2, 3, 8, 9]], dtype=np.int32)
    assert copy_continuations(known, np.array([[2, 3]], dtype=np.int32), 2).tolist() == [[8, 9]]


def test_an_own_copy_gives_the_suffix() -> None:
    known = np.arange(40, dtype=np.int32).reshape(4, 10)
    copied_ids = copy_continuations(known, known[:, :6], 4)
    np.testing.assert_array_equal(copied_ids, known[:, 6:])


def test_matches_of_many_lengths_do_not_search_everything_for_each() -> None:
    """The known windows are searched a few times, whatever the lengths of the matches."""
    rng = np.random.default_rng(0)
    known = rng.integers(0, 10_000, (100, 120)).astype(np.int32)
    prefixes = rng.integers(0, 10_000, (100, 110)).astype(np.int32)
    for row in range(100):
        prefixes[row, 109 - row :] = known[row, 109 - row : 110]
    with mock.patch("memaudit.attack.copying.run_hashes", wraps=run_hashes) as search:
        copied_ids = copy_continuations(known, prefixes, 5)
    np.testing.assert_array_equal(copied_ids, known[:, 110:115])
    assert search.call_count < 20
