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
    """(N,) place of each suffix among the audited tokens of all samples. A gap is left between
    samples, and where windows of a sample do not follow each other."""
    is_own: NDArray[np.bool_]
    """Audited tokens that are no template; False in gaps."""
    any: NDArray[np.bool_]
    """(N,) True if the window holds template."""

    def __init__(self, windows: Windows, template: Template) -> None:
        prefix, tokens = windows.longest_prefix, windows.suffix_ids.shape[1]
        self._windows, self._template = windows, template
        self.places = _places(windows)
        self.any = np.zeros(len(windows), dtype=np.bool_)
        begins = np.diff(self.places, prepend=self.places[0] - tokens - 1) > tokens
        begun = np.maximum.accumulate(np.where(begins, np.arange(len(windows)), 0))
        self._firsts = self.places[begun, None]  # (N,1) place of the first suffix before a gap
        self._columns = np.arange(-prefix, tokens)
        is_text = np.zeros(int(self.places[-1]) + tokens + 1, dtype=np.bool_)
        self._is_template = np.zeros_like(is_text)
        for block in blocks_of(len(windows)):
            place = self.places[block, None] + self._columns
            is_text[place[:, prefix:]] = True
            if len(template.hashes):
                masked = template.mask(windows, block)
                self.any[block] = masked.any(axis=1)
                self._is_template[place[masked & (place >= self._firsts[block])]] = True
        self.is_own = is_text & ~self._is_template

    def mask(self, rows: slice = slice(None)) -> NDArray[np.bool_]:
        """Return which tokens of the windows in ``rows`` are template: (n,P+S)."""
        masked = self._template.mask(self._windows, rows)
        if len(self._template.hashes):
            place = self.places[rows, None] + self._columns
            is_audited = place >= self._firsts[rows]
            masked |= is_audited & self._is_template[np.maximum(place, 0)]
        return masked


def _places(windows: Windows) -> NDArray[np.int64]:
    """Return the place of each suffix: (N,)."""
    prefix, tokens = windows.longest_prefix, windows.suffix_ids.shape[1]
    steps = np.full(len(windows), tokens + 1)
    for block in blocks_of(len(windows), 1):
        before, ids = windows.suffix_ids[block.start - 1 : block.stop - 1], windows.ids[block]
        new = windows.new_tokens[block, None]
        columns = prefix + np.arange(tokens) - new  # where the suffix before stands in this window
        again = np.take_along_axis(ids, np.maximum(columns, 0), axis=1)
        follows = ((again == before) | (columns < 0)).all(axis=1)
        follows &= windows.sample[block] == windows.sample[block.start - 1 : block.stop - 1]
        steps[block][follows] = new[follows, 0]
    steps[:1] = 0
    return np.cumsum(steps)


def blocks_of(windows: int, first: int = 0) -> Iterator[slice]:
    """Yield slices of the windows from ``first`` on, in order."""
    for start in range(first, windows, _ROWS):
        yield slice(start, min(start + _ROWS, windows))
