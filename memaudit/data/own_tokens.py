"""Tokens of windows that show nothing about their record.

Knows token ids, template and sample numbers. Must not know text, folds, models or prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memaudit.data.masked_windows import MaskedWindows, blocks_of
from memaudit.data.template import Template
from memaudit.data.windows import Windows

FEW = 8
"""Tokens of a piece that come out by chance too often to mean anything, if most of the piece is
missing: one digit of a number is guessed in one of ten records."""


@dataclass(frozen=True, eq=False)
class TemplateTokens:
    """Tokens of N windows' suffixes that show nothing about their record."""

    suffix: NDArray[np.int64]
    """(N,) among all suffix tokens."""
    new: NDArray[np.int64]
    """(N,) among the new ones (``Windows.new_tokens``)."""
    in_window: NDArray[np.bool_]
    """(N,) True if the window holds template anywhere, also in its prefix."""

    def take(self, mask: NDArray[np.bool_]) -> TemplateTokens:
        """Return those of the windows in the mask (N,)."""
        return TemplateTokens(self.suffix[mask], self.new[mask], self.in_window[mask])


def count_template(windows: Windows, template: Template) -> TemplateTokens:
    """Count the suffix tokens that show nothing about a record.

    These are template, also if its run ends beyond the window. The tokens between template count
    too if they stand in the same order in the window's prefix: a greeting with the name that the
    user gave is copied, not remembered. A window with no other tokens than a few of a piece of
    which another window holds more shows nothing either.
    """
    masked = MaskedWindows(windows, template)
    suffix_tokens = windows.suffix_ids.shape[1]
    pieces = _pieces(masked.places, masked.is_own, suffix_tokens)
    is_repeated = _repeats(windows, pieces)
    alone = np.zeros(len(windows), dtype=np.bool_)
    alone[pieces.row[~is_repeated & ~pieces.is_fragment]] = True
    shows = ~is_repeated & (~pieces.is_fragment | alone[pieces.row])
    row, start, end = (part[shows] for part in (pieces.row, pieces.start, pieces.end))
    own, own_new = np.zeros((2, len(windows)), dtype=np.int64)
    np.add.at(own, row, end - start)
    known = suffix_tokens - windows.new_tokens[row]
    np.add.at(own_new, row, np.maximum(0, end - np.maximum(start, known)))
    return TemplateTokens(suffix_tokens - own, windows.new_tokens - own_new, masked.any)


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Own tokens in the windows' suffixes, as runs between template."""

    row: NDArray[np.int64]
    start: NDArray[np.int64]
    """First token, counted from the suffix's."""
    end: NDArray[np.int64]
    is_fragment: NDArray[np.bool_]
    """True for FEW tokens of a piece of which another window holds more, and of which this is no
    more than half."""


def _pieces(places: NDArray[np.int64], is_own: NDArray[np.bool_], tokens: int) -> _Pieces:
    """Find the runs of own tokens in each suffix of ``tokens`` tokens."""
    found = []
    for block in blocks_of(len(places)):
        own = is_own[places[block, None] + np.arange(tokens)]
        edges = np.diff(own.astype(np.int8), axis=1, prepend=0, append=0)
        row, start = np.nonzero(edges > 0)
        found.append(np.stack([block.start + row, start, np.nonzero(edges < 0)[1]]))
    row, start, end = np.concatenate(found, axis=1)
    edges = np.diff(is_own.astype(np.int8), prepend=0, append=0)
    firsts, lasts = np.flatnonzero(edges > 0), np.flatnonzero(edges < 0)
    whole = np.searchsorted(firsts, places[row] + start, side="right") - 1  # the piece it is of
    held, most = end - start, np.zeros(len(firsts), dtype=np.int64)
    np.maximum.at(most, whole, held)
    few = (held < FEW) & (2 * held <= (lasts - firsts)[whole])
    return _Pieces(row, start, end, few & (held < most[whole]))


def _repeats(windows: Windows, pieces: _Pieces) -> NDArray[np.bool_]:
    """Return which pieces stand in the prefix of their window too."""
    prefix = windows.longest_prefix
    repeats = np.zeros(len(pieces.row), dtype=np.bool_)
    runs = zip(pieces.row.tolist(), pieces.start.tolist(), pieces.end.tolist(), strict=True)
    for number, (row, start, end) in enumerate(runs):
        ids = windows.ids[row].tobytes()
        run = ids[4 * (prefix + start) : 4 * (prefix + end)]
        repeats[number] = _holds(ids, run, 4 * prefix)
    return repeats


def _holds(ids: bytes, run: bytes, end: int) -> bool:
    """Return True if ids of 32 bits hold a run of such ids, before byte ``end``."""
    place = ids.find(run, 0, end)
    while place % 4 and place >= 0:
        place = ids.find(run, place + 1, end)
    return place >= 0
