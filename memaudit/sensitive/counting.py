"""Counts of sensitive content in texts of token ids, by category.

Knows token ids, a decoder passed in, and detectors. Decodes a chunk at a time and keeps only the
counts. Knows nothing of attacks or reports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memaudit.sensitive.detectors import Category, Detector
from memaudit.sensitive.shapes import Span

Counts = NDArray[np.uint16]
Rows = Sequence[NDArray[np.int32]] | NDArray[np.int32]
Decode = Callable[[Rows], Sequence[str]]
Prompts = Callable[[Sequence[int]], Sequence[str]]
"""Returns the prompts of the texts with these numbers, which few texts need."""

_MAX_COUNT = int(np.iinfo(np.uint16).max)
_CONTEXT = 32
"""Tokens of a prefix that are context of what follows it."""
_CHUNK = 4096  # texts decoded at a time


class _InContext(NamedTuple):
    """A text behind some of what stands before it."""

    whole: str
    start: int
    """First character of the text itself."""


@dataclass(frozen=True, eq=False)
class Items:
    """Items of each category found in a file, without those that the prompt itself holds."""

    windows: Counts
    """(N,C) in each window's suffix, and not in its prefix."""
    samples: Counts
    """(M,C) in the audited tokens of each sample, in one piece, and not in its first prefix."""


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
    ids: Rows,
    prefixes: Rows,
    decode: Decode,
    detectors: Sequence[Detector],
) -> Counts:
    """Count the items of each category that are mostly in each of N texts that follow a prefix.

    The end of the prefix is context: it may hold the word that tells a number's category.

    Args:
        ids: the token ids of each text.
        prefixes: the token ids before each. An item that stands there too does not count: whoever
            has the prompt has the item.
        decode: from rows of ids to their texts.
        detectors: C detectors. If two claim the same text, the earlier one counts it.

    Returns:
        (N,C). A text's counts do not depend on the others.
    """
    counts = np.zeros((len(ids), len(detectors)), dtype=np.uint16)
    for start in range(0, len(ids), _CHUNK):
        part = slice(start, start + _CHUNK)
        texts = _in_context(ids[part], prefixes[part], decode)
        prompts = partial(_decode_some, decode, prefixes[part])
        counts[start : start + len(texts)] = _count(texts, detectors, prompts)
    return counts


def _decode_some(decode: Decode, ids: Rows, rows: Sequence[int]) -> Sequence[str]:
    return decode([ids[row] for row in rows])


def _count(texts: Sequence[_InContext], detectors: Sequence[Detector], prompts: Prompts) -> Counts:
    """Count the items that are mostly in each text and not in its prompt: (n,C)."""
    counts = np.zeros((len(texts), len(detectors)), dtype=np.uint16)
    items = _find_items(texts, detectors)
    rows = [row for row, columns in enumerate(items) if any(columns)]
    for row, prompt in zip(rows, prompts(rows) if rows else (), strict=True):
        new = [
            sum(not _holds(prompt, texts[row], item) for item in column) for column in items[row]
        ]
        counts[row] = np.minimum(new, _MAX_COUNT)
    return counts


def _in_context(ids: Rows, prefixes: Rows, decode: Decode) -> list[_InContext]:
    """Return each text behind the end of its prefix, or alone if it is not written so there."""
    before = (prefix[-_CONTEXT:] for prefix in prefixes)
    both = decode([np.concatenate(pair) for pair in zip(before, ids, strict=True)])
    return [
        _InContext(whole, len(whole) - len(text)) if whole.endswith(text) else _InContext(text, 0)
        for whole, text in zip(both, decode(ids), strict=True)
    ]


def _find_items(
    texts: Sequence[_InContext], detectors: Sequence[Detector]
) -> list[list[list[Span]]]:
    """Return the items that are mostly in each text, by detector: (n,C) lists."""
    wholes = [text.whole for text in texts]
    claimed: list[list[Span]] = [[] for _ in texts]
    items: list[list[list[Span]]] = [[] for _ in texts]
    for detector in detectors:
        for row, spans in enumerate(detector.find(wholes)):
            new = [span for span in spans if not _overlaps(span, claimed[row])]
            claimed[row].extend(new)
            items[row].append([span for span in new if _is_mostly_behind(span, texts[row].start)])
    return items


def _is_mostly_behind(span: Span, start: int) -> bool:
    """Return True if more of an item stands behind the start of the text than before it."""
    return span.end - start > start - span.start


def _holds(prompt: str, text: _InContext, item: Span) -> bool:
    """Return True if a prompt holds an item of a text that is no part of a longer word or number.

    Of an item that begins before the text only the rest is looked for.

    An item at an end of the text may be cut off there, so that the prompt has more of it.
    """
    begin, whole = max(item.start, text.start), text.whole
    words = whole[begin : item.end]
    start = r"(?<!\w)" if begin else ""
    end = r"(?!\w)" if item.end < len(whole.rstrip()) else ""
    return words in prompt and re.search(start + re.escape(words) + end, prompt) is not None


def _overlaps(span: Span, claimed: Iterable[Span]) -> bool:
    return any(span.start < other.end and other.start < span.end for other in claimed)
