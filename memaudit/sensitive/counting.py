"""Counts of sensitive content in each window's suffix, by category.

Knows token ids, a decoder passed in, and detectors. Decodes a chunk at a time and keeps only the
counts. Knows nothing of attacks or reports.
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

_MAX_COUNT = int(np.iinfo(np.uint16).max)
_CHUNK = 4096  # windows decoded at a time


@dataclass(frozen=True, eq=False)
class SensitiveContent:
    """Sensitive content of the suffixes, by category."""

    methods: Mapping[Category, str]
    """Detection method of each category searched for, in the order of the columns of counts."""
    missing: Mapping[Category, str]
    """Reason for each category that was not searched for."""
    data: Counts
    """(N,C) items of each category in each suffix of the data."""
    controls: Counts | None
    """(M,C) items of each category in each suffix of the controls."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """Categories searched for."""
        return tuple(self.methods)


def count_content(
    suffix_ids: NDArray[np.int32], decode: Decode, detectors: Sequence[Detector]
) -> Counts:
    """Count the items of each category in each suffix.

    Args:
        suffix_ids: (N,S).
        decode: from (n,S) ids to n texts.
        detectors: C detectors. If two claim the same text, the earlier one counts it.

    Returns:
        (N,C). A window's counts do not depend on the other windows.
    """
    counts = np.zeros((len(suffix_ids), len(detectors)), dtype=np.uint16)
    for start in range(0, len(suffix_ids), _CHUNK):
        texts = decode(suffix_ids[start : start + _CHUNK])
        counts[start : start + len(texts)] = count_texts(texts, detectors)
    return counts


def count_texts(texts: Sequence[str], detectors: Sequence[Detector]) -> Counts:
    """Count the items of each detector's category in each of n texts: (n,C)."""
    counts = np.zeros((len(texts), len(detectors)), dtype=np.uint16)
    claimed: list[list[Span]] = [[] for _ in texts]
    for column, detector in enumerate(detectors):
        for row, spans in enumerate(detector.find(texts)):
            new = [span for span in spans if not _overlaps(span, claimed[row])]
            claimed[row].extend(new)
            counts[row, column] = min(len(new), _MAX_COUNT)
    return counts


def _overlaps(span: Span, claimed: Iterable[Span]) -> bool:
    return any(span.start < other.end and other.start < span.end for other in claimed)
