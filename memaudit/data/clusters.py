"""Clusters of near-duplicates: windows that may reveal each other's text.

Knows token ids, sample numbers and groups. Must not know text, folds, models or prompts. Windows of
a cluster share marks: 64-bit hashes that also record what a prompt was fitted on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from memaudit.data.masked_windows import MaskedWindows, blocks_of
from memaudit.data.run_hashes import run_hashes
from memaudit.data.template import NO_TEMPLATE, Template
from memaudit.data.windows import PADDING, Windows

MAX_TEMPLATE = 0.5
"""Share of a run that may be template: with 19 tokens of a greeting, the 20th is the same by chance
in many records."""
MIN_OWN = 0.25
"""Least share of a window, or of its suffix, that is its sample's own if the rest is template. Of
120 chats with one template two fifths are; of versions of a document an eighth."""
_MARKS = 1 << 24  # marks sorted at a time: about 0.7 GiB with owners and order


class Marker:
    """Marks of the windows of one file. Windows that share a mark are near-duplicates.

    Marks are 64-bit hashes of each run of ``run`` tokens (the whole window if it is shorter), the
    whole suffix (which a prompt could learn, however short), the sample in the file ``origin``, and
    the group. Padding gives no mark. Nor do runs and suffixes that are mostly template, unless
    little else is left of the sample: then it is a copy of other samples.
    """

    def __init__(
        self, windows: Windows, run: int, origin: str, template: Template = NO_TEMPLATE
    ) -> None:
        self._windows = windows
        self._run = run
        self._origin = origin
        self._masked = MaskedWindows(windows, template)
        self._is_copy = _little_left(windows, self._masked, run)

    def new_marks(self, rows: slice) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return marks of the windows in ``rows`` and the row of each, without repetitions.

        Left out are most runs that the window before of the same sample holds: they would link no
        window that the sample's mark does not link. Windows overlap, so these are most marks.
        """
        marks = self.marks(rows)
        runs, own = marks.shape[1] - 3, marks[:, -2:-1]  # suffix, sample and group come after them
        is_new = marks != own
        is_new[:, -2] = True
        # As its suffix starts that many tokens later, so does the window.
        later = np.arange(runs) + self._windows.new_tokens[rows][1:, None]
        before = np.take_along_axis(marks[:-1, :runs], np.minimum(later, runs - 1), axis=1)
        is_known = (before == marks[1:, :runs]) & (own[1:] == own[:-1])
        is_new[1:, :runs] &= ~is_known
        return marks[is_new], rows.start + np.nonzero(is_new)[0]

    def marks(self, rows: slice = slice(None)) -> NDArray[np.uint64]:
        """Return the marks of the windows in ``rows``: (n, marks)."""
        windows = self._windows
        suffixes = windows.suffix_ids[rows]
        ids = windows.ids[rows]
        named = self._names(rows)
        suffix_hashes = run_hashes(suffixes, suffixes.shape[1])
        marks = np.concatenate([run_hashes(ids, self._run), suffix_hashes, named], axis=1)
        is_template = self._masked.mask(rows) & ~self._is_copy[rows, None]
        without = _without_mark(is_template, ids == PADDING, self._run, suffixes.shape[1])
        return np.where(without, named[:, :1], marks)  # the sample's own mark, which it has anyway

    def _names(self, rows: slice) -> NDArray[np.uint64]:
        """Return the marks of sample and group: (n,2)."""
        windows = self._windows
        samples = [
            _text_hash(f"sample {self._origin} {number}")
            for number in windows.sample[rows].tolist()
        ]
        groups = [
            sample if group is None else _text_hash(f"group {group}")
            for sample, group in zip(samples, windows.group[rows], strict=True)
        ]
        return np.array([samples, groups], dtype=np.uint64).reshape(2, -1).T


def _little_left(windows: Windows, masked: MaskedWindows, run: int) -> NDArray[np.bool_]:
    """Return the windows of samples with few tokens beside template: (N,).

    Few are less than half a run, or than MIN_OWN of every window and suffix: versions of one
    document.
    """
    is_copy = np.zeros(len(windows), dtype=np.bool_)
    if masked.any.any():
        samples = int(windows.sample.max(initial=0)) + 1
        left, share = np.zeros(samples, dtype=np.int64), np.zeros(samples)
        for block in blocks_of(len(windows)):
            ids = windows.ids[block]
            is_text = ids != PADDING
            own = ~masked.mask(block) & is_text
            of_window = own.sum(axis=1) / is_text.sum(axis=1)
            of_suffix = own[:, windows.longest_prefix :].mean(axis=1)
            np.maximum.at(left, windows.sample[block], own.sum(axis=1))
            np.maximum.at(share, windows.sample[block], np.maximum(of_window, of_suffix))
        is_copy = (2 * left < min(run, windows.window_tokens)) | (share < MIN_OWN)
        is_copy = is_copy[windows.sample]
    return is_copy


def _without_mark(
    is_template: NDArray[np.bool_], is_padding: NDArray[np.bool_], run: int, suffix: int
) -> NDArray[np.bool_]:
    """Return which columns of marks stand mostly for template or hold padding: (N, marks)."""
    length = min(run, is_template.shape[1])
    runs = _counts(is_template, length) > MAX_TEMPLATE * length
    runs |= _counts(is_padding, length) > 0
    whole = _counts(is_template[:, -suffix:], suffix) > MAX_TEMPLATE * suffix
    return np.concatenate([runs, whole, np.zeros((len(runs), 2), dtype=np.bool_)], axis=1)


def _counts(mask: NDArray[np.bool_], length: int) -> NDArray[np.int64]:
    """Count what is set in each run of ``length`` tokens of a mask (N,T): (N,T-length+1)."""
    sums = np.zeros((len(mask), mask.shape[1] + 1), dtype=np.int64)
    np.cumsum(mask, axis=1, out=sums[:, 1:])
    return np.asarray(sums[:, length:] - sums[:, :-length])


def collect_marks(
    windows: Windows,
    rows: NDArray[np.int64],
    run: int,
    origin: str,
    template: Template = NO_TEMPLATE,
) -> NDArray[np.uint64]:
    """Return the marks of the windows at ``rows``, sorted and distinct."""
    is_chosen = np.zeros(len(windows), dtype=np.bool_)
    is_chosen[rows] = True
    marker = Marker(windows, run, origin, template)
    blocks = [np.empty(0, np.uint64)]
    for block in blocks_of(len(windows)):
        blocks.append(np.unique(marker.marks(block)[is_chosen[block]]))
    marks = np.concatenate(blocks)
    blocks.clear()  # as large as the rest if there are many windows
    marks.sort()
    first = np.ones(len(marks), dtype=np.bool_)
    first[1:] = marks[1:] != marks[:-1]
    return marks[first]


def have_marks(
    windows: Windows, run: int, origin: str, marks: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Return which windows have any of these marks, and so are near-duplicates: (N,)."""
    known, matches = np.unique(marks), np.zeros(len(windows), dtype=np.bool_)
    marker = Marker(windows, run, origin)
    for block in blocks_of(len(windows)):
        own_marks = marker.marks(block)
        # np.isin would sort the known marks for every block.
        index = np.minimum(np.searchsorted(known, own_marks), len(known) - 1)
        matches[block] = (known[index] == own_marks).any(axis=1) if len(known) else False
    return matches


def find_clusters(
    parts: Sequence[Windows], run: int, template: Template = NO_TEMPLATE
) -> NDArray[np.int64]:
    """Return the cluster number of every window of all parts, part after part: (sum of N,).

    Windows are in one cluster if they share a mark (:class:`Marker`), directly or through
    other windows. Clusters are numbered from 0 in the order of their first windows. With many
    windows, the possible marks are processed in shares, so that memory use hardly grows.
    """
    total = sum(len(part) for part in parts)
    markers = [Marker(part, run, str(number), template) for number, part in enumerate(parts)]
    sizes = [len(part) for part in parts]
    shares = max(1, math.ceil(_expected_marks(markers, sizes) / _MARKS))
    labels = np.arange(total, dtype=np.int64)
    for share in range(shares):
        labels = _join(labels, *_chain(*_share_of_marks(markers, sizes, share, shares)))
    return _by_first(labels)


def _text_hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _expected_marks(markers: Sequence[Marker], sizes: Sequence[int]) -> float:
    """Return about how many marks the windows have, judging by the first of each marker."""
    total = 0.0
    for marker, size in zip(markers, sizes, strict=True):
        first = next(blocks_of(size))
        total += size * len(marker.new_marks(first)[0]) / first.stop
    return total


def _share_of_marks(
    markers: Sequence[Marker], sizes: Sequence[int], share: int, shares: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the marks of all windows in one of ``shares`` equal shares, and their windows.

    sizes: windows of each marker.
    """
    keys, owners, before = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], 0
    for marker, size in zip(markers, sizes, strict=True):
        for part in blocks_of(size):
            marks, rows = marker.new_marks(part)
            # The upper half of a mark decides its share.
            in_share = ((marks >> np.uint64(32)) * np.uint64(shares)) >> np.uint64(32) == share
            keys.append(marks[in_share])
            owners.append(before + rows[in_share])
        before += size
    return np.concatenate(keys), np.concatenate(owners)


def _chain(
    keys: NDArray[np.uint64], owners: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Link each owner of a key to the next owner of the same key: two arrays (edges,)."""
    order = np.argsort(keys, kind="stable")
    equal = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    return owners[order[equal]], owners[order[equal + 1]]


def _join(
    labels: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Merge labels (N,) by linking the windows ``left`` and ``right`` (edges,) in pairs."""
    count = int(labels.max(initial=-1)) + 1
    links = (np.ones(len(left), dtype=np.bool_), (labels[left], labels[right]))
    joined = connected_components(coo_array(links, shape=(count, count)), directed=False)[1]
    return np.asarray(joined[labels], dtype=np.int64)


def _by_first(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Number labels from 0 in the order in which they first occur."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
