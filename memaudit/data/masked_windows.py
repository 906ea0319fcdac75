"""Template in windows, also where a window cuts it.

Knows token ids, template and sample numbers. Must not know text, folds, models or prompts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from memaudit.data.template import Template
from memaudit.data.windows import Windows

_ROWS = 4096  # windows looked at at a time


class MaskedWindows:
    """Windows and their template. A run that a window cuts is whole in the next one."""

    places: NDArray[np.int64]
    """(N,) place of each suffix in the rows below. Windows of a sample that follow each other share
    places; between others there is a gap."""
    is_own: NDArray[np.bool_]
    """Audited tokens that are no template."""
    any: NDArray[np.bool_]
    """(N,) True if the window holds template."""

    def __init__(self, windows: Windows, template: Template) -> None:
        prefix, tokens = windows.longest_prefix, windows.suffix_ids.shape[1]
        self.places = _places(windows)
        self._columns = np.arange(-prefix, tokens)
        is_text = np.zeros(int(self.places[-1]) + tokens + 1, dtype=np.bool_)
        self._is_template = np.zeros_like(is_text)
        begins = np.diff(self.places, prepend=self.places[0] - tokens - 1) > tokens
        for block in blocks_of(len(windows)):
            is_text[self.places[block, None] + self._columns[prefix:]] = True
            first, later = np.flatnonzero(begins[block]), np.flatnonzero(~begins[block])
            self._mark(windows, template, block.start + first, 0)
            # Of a window that follows another, only runs that end in its suffix are new.
            known = max(0, prefix - template.longest)
            self._mark(windows, template, block.start + later, known)
        self.is_own = is_text & ~self._is_template
        before = np.concatenate([[0], np.cumsum(self._is_template)])
        self.any = before[self.places + tokens] > before[self.places - prefix]

    def _mark(
        self, windows: Windows, template: Template, rows: NDArray[np.int64], known: int
    ) -> None:
        """Mark the template in windows at ``rows``, but not in their first ``known`` tokens."""
        if len(template.hashes) and len(rows):
            masked = template.mask(windows.ids[rows, known:], windows.letters)
            self._is_template[(self.places[rows, None] + self._columns[known:])[masked]] = True

    def mask(self, rows: slice = slice(None)) -> NDArray[np.bool_]:
        """Return which tokens of the windows in ``rows`` are template: (n,P+S)."""
        return np.asarray(self._is_template[self.places[rows, None] + self._columns])


def _places(windows: Windows) -> NDArray[np.int64]:
    """Return the place of each suffix: (N,)."""
    prefix, tokens = windows.longest_prefix, windows.suffix_ids.shape[1]
    steps = np.full(len(windows), prefix + tokens + 1)
    for block in blocks_of(len(windows), 1):
        before, ids = windows.suffix_ids[block.start - 1 : block.stop - 1], windows.ids[block]
        new = windows.new_tokens[block, None]
        columns = prefix + np.arange(tokens) - new  # where the suffix before stands in this window
        again = np.take_along_axis(ids, np.maximum(columns, 0), axis=1)
        follows = ((again == before) | (columns < 0)).all(axis=1)
        follows &= windows.sample[block] == windows.sample[block.start - 1 : block.stop - 1]
        steps[block][follows] = new[follows, 0]
    steps[:1] = prefix
    return np.cumsum(steps)


def blocks_of(windows: int, first: int = 0) -> Iterator[slice]:
    """Yield slices of the windows from ``first`` on, in order."""
    for start in range(first, windows, _ROWS):
        yield slice(start, min(start + _ROWS, windows))
