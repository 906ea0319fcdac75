"""64-bit hashes of runs of tokens.

Knows token ids. Must not know windows, files or models.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROWS = 4096  # rows hashed at a time
_BASE = np.uint64(0xD1342543DE82EF95)  # of a multiplicative generator (Steele and Vigna 2021)


def run_hashes(ids: NDArray[np.integer], run: int) -> NDArray[np.uint64]:
    """Hash every run of r = min(run, T) tokens in ``ids`` (N, T): (N, T-r+1).

    The hash is linear in well-mixed tokens, with an odd factor for each place in the run, and is
    mixed once more. Two different runs have the same hash with probability about 2^-63.
    """
    rows, tokens = ids.shape
    length = min(run, tokens)
    starts = tokens - length + 1
    factors = _mix(np.arange(1, length + 1, dtype=np.uint64)) | np.uint64(1)
    hashes = np.zeros((rows, starts), dtype=np.uint64)
    for first in range(0, rows, _ROWS):
        mixed = _mix(ids[first : first + _ROWS].astype(np.uint64))
        part = hashes[first : first + _ROWS]
        for place in range(length):
            part += mixed[:, place : place + starts] * factors[place]
        part[:] = _mix(part)
    return hashes


def hash_runs(
    ids: NDArray[np.integer], starts: NDArray[np.integer], ends: NDArray[np.integer]
) -> NDArray[np.uint64]:
    """Hash the runs between ``starts`` and ``ends`` (N,R) in the tokens ``ids`` (N,T): (N,R).

    The hash is a polynomial of well-mixed tokens, so runs of any length take the same time.
    """
    rows, tokens = ids.shape
    mixed = _mix(ids.astype(np.uint64))
    sums = np.zeros((rows, tokens + 1), dtype=np.uint64)
    for place in range(tokens):
        sums[:, place + 1] = sums[:, place] * _BASE + mixed[:, place]
    powers = np.ones(tokens + 1, dtype=np.uint64)
    np.cumprod(np.full(tokens, _BASE), out=powers[1:])
    before = np.take_along_axis(sums, starts, axis=1) * powers[ends - starts]
    return _mix((np.take_along_axis(sums, ends, axis=1) - before).astype(np.uint64))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix bits by splitmix64 (Steele, Lea and Flood 2014), which is one-to-one."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
