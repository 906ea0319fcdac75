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
_SEED = 8
"""Tokens of matches that are searched for in all known windows. Few places match that many, so
longer matches are searched for only there."""


def copy_continuations(known: Ids, prefixes: Ids, suffix_tokens: int) -> Ids:
    """Continue each prefix with what followed its longest match in the known windows.

    known: (M,T) ids of the windows outside the audit part. prefixes: (N,P). A match is the longest
    run of the prefix's last tokens that occurs in ``known`` with at least one token after it. Of
    several, the one with the most tokens after it is copied, then the first. Returns (N,S), -1
    where nothing follows or nothing matches.
    """
    match = np.full(len(prefixes), -1, dtype=np.int64)
    seed = min(_SEED, prefixes.shape[1], known.shape[1] - 1)
    low = np.zeros(len(prefixes), dtype=np.int64)
    high = np.full(len(prefixes), seed, dtype=np.int64)
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
    rows = np.flatnonzero(low == seed)
    if seed and len(rows):
        match[rows] = _lengthen(known, prefixes[rows], match[rows], seed)
    return _tokens_after(known, match, suffix_tokens)


def _find(known: Ids, prefixes: Ids, length: int) -> NDArray[np.int64]:
    """Return where each prefix's last ``length`` tokens end: row*T + next column, or -1."""
    rows, width = known.shape
    wanted, which = _endings(prefixes, length)
    place = np.full(len(wanted), rows * width, dtype=np.int64)
    for first in range(0, rows, _ROWS):
        row, column, spot = _matches(known[first : first + _ROWS], wanted, length)
        np.minimum.at(place, spot, _rank(first + row, column, rows))
    return _after(place, which, length, known)


def _lengthen(
    known: Ids, prefixes: Ids, match: NDArray[np.int64], length: int
) -> NDArray[np.int64]:
    """Return where the longest matches end, for prefixes of which ``length`` tokens match.

    match: (N,) where those tokens end. A token at a time is compared before the matches that are
    left, so the cost is the number of places at which they are that long.
    """
    match = match.copy()
    wanted, which = _endings(prefixes, length)
    blocks = range(0, len(known), _ROWS)
    parts = [_matches(known[first : first + _ROWS], wanted, length) for first in blocks]
    row = np.concatenate([first + part[0] for first, part in zip(blocks, parts, strict=True)])
    start, spot = (np.concatenate([part[number] for part in parts]) for number in (1, 2))
    left = np.arange(len(prefixes))
    while length < min(prefixes.shape[1], known.shape[1] - 1) and len(left):
        length += 1
        inside = start > 0
        row, start, spot = row[inside], start[inside] - 1, spot[inside]
        # Prefixes with equal endings so far, and their next token, make up the endings sought.
        wanted, which = np.unique(_pair(which, prefixes[left, -length]), return_inverse=True)
        pairs = _pair(spot, known[row, start])
        spot = np.minimum(np.searchsorted(wanted, pairs), len(wanted) - 1)
        equal = wanted[spot] == pairs
        row, start, spot = row[equal], start[equal], spot[equal]
        place = np.full(len(wanted), known.size, dtype=np.int64)
        np.minimum.at(place, spot, _rank(row, start, len(known)))
        longer = _after(place, which, length, known)
        hit = longer >= 0
        left, which = left[hit], which[hit]
        match[left] = longer[hit]
    return match


def _endings(prefixes: Ids, length: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the sorted hashes of the prefixes' last ``length`` tokens, and which is whose."""
    return np.unique(run_hashes(prefixes[:, -length:], length)[:, 0], return_inverse=True)


def _matches(known: Ids, wanted: NDArray[np.uint64], length: int) -> tuple[Ids, Ids, Ids]:
    """Return row and column where a wanted run starts, and its number among ``wanted``."""
    hashes = run_hashes(known[:, :-1], length)  # a match has to leave a token to copy
    spot = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
    row, column = np.nonzero(wanted[spot] == hashes)
    return row.astype(np.int32), column.astype(np.int32), spot[row, column].astype(np.int32)


def _pair(ending: NDArray[np.integer], token: Ids) -> NDArray[np.int64]:
    """Return one number for the number of an ending and the token before it, which may be -1."""
    return (ending.astype(np.int64) << 32) + token + 1


def _rank(row: Ids, column: Ids, rows: int) -> NDArray[np.int64]:
    """Number places column by column: the lowest of several has the most tokens after it."""
    return column.astype(np.int64) * rows + row


def _after(
    place: NDArray[np.int64], which: NDArray[np.int64], length: int, known: Ids
) -> NDArray[np.int64]:
    """Return the place of the token after each prefix's run, row*T+column; -1 if it has none."""
    column, row = np.divmod(place[which], len(known))
    return np.where(place[which] < known.size, row * known.shape[1] + column + length, -1)


def _tokens_after(known: Ids, place: NDArray[np.int64], suffix_tokens: int) -> Ids:
    width = known.shape[1]
    row, column = np.divmod(place, width)
    columns = column[:, None] + np.arange(suffix_tokens)
    inside = (place >= 0)[:, None] & (columns < width)
    copied = known[np.maximum(row, 0)[:, None], np.minimum(columns, width - 1)]
    return np.where(inside, copied, -1).astype(np.int32)
