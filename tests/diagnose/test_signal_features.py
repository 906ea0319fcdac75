"""Signals of prefixes against plain computations of the same figures."""

from __future__ import annotations

import numpy as np
from conftest import build_tokenizer

from memaudit.diagnose.signals.features import (
    LONGEST_RUN,
    Prefixes,
    characters,
    copies,
    distinct_share,
    last_run,
    last_run_elsewhere,
    nearest_similarity,
    rarity,
    repetition,
)


def windows(count: int = 40, tokens: int = 24, kinds: int = 4) -> np.ndarray:
    """Few different tokens, so that runs recur; some rows are copies of others."""
    ids = np.random.default_rng(0).integers(3, 3 + kinds, (count, tokens)).astype(np.int32)
    ids[5] = ids[4]
    ids[7, :12] = ids[6, 12:]
    return ids


def holds(row: np.ndarray, run: list[int]) -> bool:
    ids = row.tolist()
    return any(ids[at : at + len(run)] == run for at in range(len(ids) - len(run) + 1))


def test_last_tokens_are_looked_up_in_other_prefixes_only() -> None:
    ids = windows()
    lengths_found = last_run_elsewhere(Prefixes(ids, np.arange(40), ids))
    for number, row in enumerate(ids):
        lengths = [
            length
            for length in range(1, LONGEST_RUN + 1)
            if any(
                holds(file_row, row[-length:].tolist())
                for place, file_row in enumerate(ids)
                if place != number
            )
        ]
        assert lengths_found[number] == max(lengths, default=0)
    assert lengths_found[5] == lengths_found[4] == LONGEST_RUN
    outside = last_run_elsewhere(Prefixes(ids[:3], np.full(3, -1), ids))
    assert (outside == LONGEST_RUN).all()  # a control that is in the file, word for word


def test_copies_are_other_prefixes_with_the_run_most_have() -> None:
    ids, run = windows(), 5
    counted = copies(Prefixes(ids, np.arange(40), ids), run)
    for number, row in enumerate(ids):
        counts = [
            sum(holds(other, row[at : at + run].tolist()) for other in ids) - 1
            for at in range(ids.shape[1] - run + 1)
        ]
        assert counted[number] == max(counts)
    assert copies(Prefixes(ids[:1] + 100, np.array([-1]), ids), run)[0] == 0


def test_rarity_leaves_the_window_itself_out() -> None:
    file = np.array([[3, 3, 4, 5], [3, 4, 4, 6]], dtype=np.int32)
    counts = np.bincount(file.ravel())
    # The other row has one 3, two 4 and no 5; one is added to each of 7 ids, 4 + 7 in all.
    shares = np.array([2, 2, 3, 1]) / 11
    rarities = rarity(file[:1], counts, np.array([True]))
    np.testing.assert_allclose(rarities, [-np.log(shares).mean()])
    outside = np.array([4, 4, 4, 2]) / 15
    np.testing.assert_allclose(
        rarity(file[:1], counts, np.array([False])), [-np.log(outside).mean()]
    )


def test_small_signals_by_hand() -> None:
    ids = np.array([[3, 4, 5, 3, 4, 5], [3, 3, 3, 3, 3, 3], [3, 4, 5, 6, 7, 8]], dtype=np.int32)
    np.testing.assert_allclose(distinct_share(ids), [3 / 6, 1 / 6, 1])
    np.testing.assert_allclose(repetition(ids), [1 / 4, 3 / 4, 0])
    ranked = np.array([[1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]], dtype=bool)
    assert last_run(ranked).tolist() == [2, 4, 0]


def test_characters_are_those_of_the_text() -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer(" prefix and the suffix", add_special_tokens=False)["input_ids"]
    given = np.array([ids, [0] * len(ids)], dtype=np.int32)  # 0 is a special token
    np.testing.assert_allclose(characters(given, tokenizer), [22 / len(ids), 0])


def test_the_nearest_state_is_of_another_cluster() -> None:
    rng = np.random.default_rng(0)
    known = rng.standard_normal((30, 5)).astype(np.float32) + 10
    clusters = np.arange(30) // 3
    nearest = nearest_similarity(known, clusters, known, clusters)
    centred = (known - known.mean(axis=0)).astype(np.float64)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    for number in range(30):
        cosines = [unit[number] @ unit[at] for at in range(30) if clusters[at] != clusters[number]]
        assert np.isclose(nearest[number], max(cosines), atol=1e-4)
    assert np.isnan(nearest_similarity(known, clusters * 0, known, clusters * 0)).all()
