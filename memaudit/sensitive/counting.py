"""Counts of sensitive content in texts of token ids, by category.

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
Decode = Callable[[Sequence[NDArray[np.int32]] | NDArray[np.int32]], Sequence[str]]

_MAX_COUNT = int(np.iinfo(np.uint16).max)
_CHUNK = 4096  # texts decoded at a time


@dataclass(frozen=True, eq=False)
class Items:
    """Items of each category found in a file."""

    windows: Counts
    """(N,C) in each window's suffix."""
    samples: Counts
    """(M,C) in the audited tokens of each sample, in one piece."""


@dataclass(frozen=True, eq=False)
class SensitiveContent:
    """Sensitive content of data and controls, by category."""

    methods: Mapping[Category, str]
    """Detection method of each category searched for, in the order of the columns of counts."""
    missing: Mapping[Category, str]
    """Reason for each category that was not searched for."""
    data: Items
    controls: Items | None
    """None without controls."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """Categories searched for."""
        return tuple(self.methods)


def count_content(
    ids: Sequence[NDArray[np.int32]] | NDArray[np.int32],
    decode: Decode,
    detectors: Sequence[Detector],
) -> Counts:
    """Count the items of each category in each of N texts.

    Args:
        ids: the token ids of each text.
        decode: from rows of ids to their texts.
        detectors: C detectors. If two claim the same text, the earlier one counts it.

    Returns:
        (N,C). A text's counts do not depend on the others.
    """
    counts = np.zeros((len(ids), len(detectors)), dtype=np.uint16)
    for start in range(0, len(ids), _CHUNK):
        texts = decode(ids[start : start + _CHUNK])
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
