"""Sensitive content, counted: how many things of each category stand in each window's suffix.

Knows token ids, a decoder that is handed in, and detectors. Keeps counts and lets the text go, a
chunk at a time. Knows nothing of attacks or reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memaudit.content.detectors import Category, Detector
from memaudit.content.shapes import Span

Counts = NDArray[np.uint16]
Decode = Callable[[NDArray[np.int32]], Sequence[str]]

_CHUNK = 4096  # windows whose text is held at a time


@dataclass(frozen=True, eq=False)
class SensitiveContent:
    """What the suffixes hold, by category."""

    methods: Mapping[Category, str]
    """How each category that was looked for is detected; the order of the columns of counts."""
    missing: Mapping[Category, str]
    """Why a category was not looked for."""
    data: Counts
    """(N,C) things of each category in the suffix of each window of the data."""
    controls: Counts | None
    """(M,C) the same of the controls."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """Those that were looked for."""
        return tuple(self.methods)


def count_content(
    suffix_ids: NDArray[np.int32], decode: Decode, detectors: Sequence[Detector]
) -> Counts:
    """Things of each category in each suffix.

    Args:
        suffix_ids: (N,S).
        decode: from (n,S) ids to n texts.
        detectors: C of them. Of what two claim, the earlier one counts it.

    Returns:
        (N,C). The same windows give the same counts, in whatever company they come.
    """
    counts = np.zeros((len(suffix_ids), len(detectors)), dtype=np.uint16)
    for start in range(0, len(suffix_ids), _CHUNK):
        for row, text in enumerate(decode(suffix_ids[start : start + _CHUNK]), start):
            counts[row] = count_text(text, detectors)
    return counts


def count_text(text: str, detectors: Sequence[Detector]) -> list[int]:
    """Things of each detector's category in one text."""
    claimed: list[Span] = []
    counted = []
    for detector in detectors:
        new = [span for span in detector.find(text) if not _overlaps(span, claimed)]
        claimed.extend(new)
        counted.append(min(len(new), np.iinfo(np.uint16).max))
    return counted


def _overlaps(span: Span, others: Iterable[Span]) -> bool:
    return any(span.start < other.end and other.start < span.end for other in others)
