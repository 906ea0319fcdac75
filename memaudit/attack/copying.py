"""The ``copy`` attack: no model, only the text of the other windows.

Knows ids. It measures what near-duplicates in the data give away. A suffix that it finds, a
trained prompt could have learned from the same place, so its rate has to stay near zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memaudit.data.run_hashes import run_hashes

Ids = NDArray[np.int32]

_ROWS = 4096  # known windows searched at a time


def copy_continuations(known: Ids, prefixes: Ids, suffix_tokens: int) -> Ids:
    """Continue each prefix with what followed its longest match in the known windows.

    known: (M,T) ids of the windows outside the audit part. prefixes: (N,P). A match is the longest
    run of the prefix's last tokens that occurs in ``known`` with at least one token after it. Of
    several, the one with the most tokens after it is copied, then the first. Returns (N,S), -1
    where nothing follows or nothing matches.
    """
    match = np.full(len(prefixes), -1, dtype=np.int64)
    low = np.zeros(len(prefixes), dtype=np.int64)
    high = np.full(len(prefixes), min(prefixes.shape[1], known.shape[1] - 1), dtype=np.int64)
    # If the last L tokens occur then so do the last L-1: the longest L is found by bisection.
    while np.any(low < high):
        middle = (low + high + 1) // 2
        for length in np.unique(middle[low < high]):
            rows = np.flatnonzero((middle == length) & (low < high))
            place = _find(known, prefixes[rows], int(length))
            hit = place >= 0
            match[rows[hit]] = place[hit]
            low[rows[hit]] = length
            high[rows[~hit]] = length - 1
    return _tokens_after(known, match, suffix_tokens)


def _find(known: Ids, prefixes: Ids, length: int) -> NDArray[np.int64]:
    """Position of the token after each prefix's last ``length`` tokens: row*T+column, or -1."""
    rows, width = known.shape
    wanted, which = np.unique(run_hashes(prefixes[:, -length:], length)[:, 0], return_inverse=True)
    nowhere = rows * width
    # Numbered column by column: the lowest of several places has the most tokens after it.
    place = np.full(len(wanted), nowhere, dtype=np.int64)
    for first in range(0, rows, _ROWS):
        # A match has to leave a token to copy.
        hashes = run_hashes(known[first : first + _ROWS, :-1], length)
        spot = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
        row, column = np.nonzero(wanted[spot] == hashes)
        np.minimum.at(place, spot[row, column], column * rows + first + row)
    match = place[which]
    column, row = np.divmod(match, rows)
    return np.where(match < nowhere, row * width + column + length, -1)


def _tokens_after(known: Ids, place: NDArray[np.int64], suffix_tokens: int) -> Ids:
    width = known.shape[1]
    row, column = np.divmod(place, width)
    columns = column[:, None] + np.arange(suffix_tokens)
    inside = (place >= 0)[:, None] & (columns < width)
    copied = known[np.maximum(row, 0)[:, None], np.minimum(columns, width - 1)]
    return np.where(inside, copied, -1).astype(np.int32)
