"""Sensitive content, counted: how many things of each category stand in each window's suffix.

Knows token ids, a decoder that is handed in, and detectors. Keeps counts and lets the text go, a
chunk at a time. Knows nothing of attacks or reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memaudit.sensitive.detectors import Category, Detector
from memaudit.sensitive.shapes import Span

Counts = NDArray[np.uint16]
Decode = Callable[[NDArray[np.int32]], Sequence[str]]

_MOST = int(np.iinfo(np.uint16).max)
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
        texts = decode(suffix_ids[start : start + _CHUNK])
        counts[start : start + len(texts)] = count_texts(texts, detectors)
    return counts


def count_texts(texts: Sequence[str], detectors: Sequence[Detector]) -> Counts:
    """Things of each detector's category in each of n texts: (n,C)."""
    counts = np.zeros((len(texts), len(detectors)), dtype=np.uint16)
    claimed: list[list[Span]] = [[] for _ in texts]
    for column, detector in enumerate(detectors):
        for row, spans in enumerate(detector.find(texts)):
            new = [span for span in spans if not _overlaps(span, claimed[row])]
            claimed[row].extend(new)
            counts[row, column] = min(len(new), _MOST)
    return counts


def _overlaps(span: Span, others: Iterable[Span]) -> bool:
    return any(span.start < other.end and other.start < span.end for other in others)
