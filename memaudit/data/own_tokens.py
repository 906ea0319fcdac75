"""Tokens of windows that show nothing about their record.

Knows token ids, template and sample numbers. Must not know text, folds, models or prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memaudit.data.template import Template
from memaudit.data.windows import Windows

FEW = 8
"""Tokens of a piece that come out by chance too often to mean anything, if most of the piece is
missing: one digit of a number is guessed in one of ten records."""
_ROWS = 4096  # windows looked at at a time


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
    places = _places(windows)
    in_window, is_own = _own_tokens(windows, template, places)
    suffix_tokens = windows.suffix_ids.shape[1]
    pieces = _pieces(places, is_own, suffix_tokens)
    is_repeated = _repeats(windows, pieces)
    alone = np.zeros(len(windows), dtype=np.bool_)
    alone[pieces.row[~is_repeated & ~pieces.is_fragment]] = True
    shows = ~is_repeated & (~pieces.is_fragment | alone[pieces.row])
    row, start, end = (part[shows] for part in (pieces.row, pieces.start, pieces.end))
    own, own_new = np.zeros((2, len(windows)), dtype=np.int64)
    np.add.at(own, row, end - start)
    known = suffix_tokens - windows.new_tokens[row]
    np.add.at(own_new, row, np.maximum(0, end - np.maximum(start, known)))
    return TemplateTokens(suffix_tokens - own, windows.new_tokens - own_new, in_window)


def _places(windows: Windows) -> NDArray[np.int64]:
    """Return the place of each suffix (N,) among the audited tokens of all samples.

    A gap is left between samples, and where windows of a sample do not follow each other.
    """
    prefix, tokens = windows.longest_prefix, windows.suffix_ids.shape[1]
    steps = np.full(len(windows), tokens + 1)
    for block in _blocks(len(windows), 1):
        before, ids = windows.suffix_ids[block.start - 1 : block.stop - 1], windows.ids[block]
        new = windows.new_tokens[block, None]
        columns = prefix + np.arange(tokens) - new  # where the suffix before stands in this window
        again = np.take_along_axis(ids, np.maximum(columns, 0), axis=1)
        follows = ((again == before) | (columns < 0)).all(axis=1)
        follows &= windows.sample[block] == windows.sample[block.start - 1 : block.stop - 1]
        steps[block][follows] = new[follows, 0]
    steps[:1] = 0
    return np.cumsum(steps)


def _own_tokens(
    windows: Windows, template: Template, places: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which windows hold template (N,), and which of the audited tokens are none.

    A run that a window cuts is whole in the next window or its prefix.
    """
    prefix, tokens = windows.longest_prefix, windows.suffix_ids.shape[1]
    in_window = np.zeros(len(windows), dtype=np.bool_)
    is_own = np.zeros(int(places[-1]) + tokens + 1, dtype=np.bool_)
    is_template = np.zeros_like(is_own)
    new_piece = np.diff(places, prepend=places[0] - tokens - 1) > tokens
    firsts = places[np.maximum.accumulate(np.where(new_piece, np.arange(len(places)), 0))]
    for block in _blocks(len(windows)):
        masked = template.mask(windows, block)
        in_window[block] = masked.any(axis=1)
        place = places[block, None] + np.arange(-prefix, tokens)
        is_own[place[:, prefix:]] = True
        is_template[place[masked & (place >= firsts[block, None])]] = True
    return in_window, is_own & ~is_template


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
    for block in _blocks(len(places)):
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


def _blocks(windows: int, first: int = 0) -> Iterator[slice]:
    """Yield slices of the windows from ``first`` on, in order."""
    for start in range(first, windows, _ROWS):
        yield slice(start, min(start + _ROWS, windows))
