"""Extraction cut into parts: what is done is kept, what is left is dealt out.

Knows windows by role and row, processes, shards and the journal. Knows nothing of prompts: what
extracts a part is handed to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memaudit.attack.extraction import Advance, Extraction
from memaudit.attack.journal import Journal, from_extraction, to_extraction
from memaudit.config.shard import Shard
from memaudit.distributed import Processes
from memaudit.errors import UsageError


@dataclass(frozen=True, eq=False)
class Side:
    """The windows of the data, or the controls."""

    ids: NDArray[np.int32]
    """(N,P+S)."""
    fold: NDArray[np.int64]
    """(N,) the fold whose prompts score each window."""


@dataclass(frozen=True, eq=False)
class Part:
    """Windows that are extracted together, by one prompt."""

    role: str
    """``data`` or ``control``."""
    fold: int
    """The fold whose prompt it is; the first of those that share one."""
    start: int
    """Its first window, counted among those of this role and prompt."""
    rows: NDArray[np.int64]
    """The windows, among those of the role."""

    @property
    def name(self) -> str:
        """What tells it from the other parts of an attack."""
        return f"{self.role}-{self.fold}-{self.start}-{len(self.rows)}"


PARTS = 4
"""Parts at least that the windows of one role and prompt are cut into, where they are enough: so
much can be shared out between processes, and kept as soon as it is done."""
WHOLE_PASSES = 64
"""What the size of a part is a multiple of, so that no pass of it is half empty."""

Extract = Callable[[Sequence[Part], Advance], Iterator[Extraction]]
"""Extracts parts, in order, each when it is asked for."""


def cut(
    sides: Mapping[str, Side], prompts: Iterable[Sequence[int]], most: int | None = None
) -> list[Part]:
    """Every window in parts, each of one role and of folds that share a prompt.

    prompts: the folds of each prompt. most: windows to a part at most; no limit where not given,
    and then one part for each role and prompt. The cuts depend on nothing else: several machines
    make the same.
    """
    parts = []
    for folds in prompts:
        for role, side in sides.items():
            rows = np.flatnonzero(np.isin(side.fold, folds))
            if not len(rows):
                continue
            share = math.ceil(len(rows) / PARTS / WHOLE_PASSES) * WHOLE_PASSES
            size = len(rows) if most is None else min(most, share)
            for start in range(0, len(rows), size):
                parts.append(Part(role, int(folds[0]), start, rows[start : start + size]))
    return parts


def deal_shard(parts: Sequence[Part], shard: Shard | None, folds: int | None) -> list[Part]:
    """The parts of one shard.

    folds: how many prompts have to be fitted first, where they have: a shard then takes whole
    folds as far as there are enough of them, and shards beyond their number share one.
    """
    if shard is None:
        return list(parts)
    if folds is None:
        return list(parts[shard.index :: shard.count])
    mine = []
    for fold in range(folds):
        sharers = sharers_of(fold, folds, shard.count)
        if shard.index in sharers:
            those = [part for part in parts if part.fold == fold]
            mine += those[sharers.index(shard.index) :: len(sharers)]
    return mine


def sharers_of(fold: int, folds: int, shards: int) -> list[int]:
    """The shards, by index, that see to one of so many folds."""
    return [fold % shards] if shards <= folds else list(range(fold, shards, folds))


class PartWork:
    """Extracts the parts of an attack that the journal does not hold, with all processes."""

    def __init__(self, sides: Mapping[str, Side], prefix_tokens: int, processes: Processes) -> None:
        self._sides = sides
        self._prefix = prefix_tokens
        self._processes = processes

    def run(
        self,
        name: str,
        parts: Sequence[Part],
        extract: Extract,
        advance: Advance,
        journal: Journal,
    ) -> dict[str, Extraction]:
        """By role, what came out of the parts; the windows of no part stay empty.

        name: of the attack, which the journal keeps them under. Raises UsageError where it holds
        something else under such a name.
        """
        whole = {
            role: Extraction.empty(len(side.ids), side.ids.shape[1] - self._prefix)
            for role, side in self._sides.items()
        }
        left, processes = [], self._processes
        for part in parts:
            kept = self._kept(f"{name}-{part.name}", part, journal) if processes.is_main else None
            if (known := processes.broadcast(kept)) is not None:
                whole[part.role].put(part.rows, known)
                advance(len(part.rows))
            else:
                left.append(part)
        for part, found in _extract_dealt(left, extract, advance, processes):
            whole[part.role].put(part.rows, found)
            if processes.is_main:
                entry = from_extraction(found, self._suffixes(part))
                journal.keep(f"{name}-{part.name}", entry)
        return whole

    def _suffixes(self, part: Part) -> NDArray[np.int32]:
        return self._sides[part.role].ids[part.rows, self._prefix :]

    def _kept(self, name: str, part: Part, journal: Journal) -> Extraction | None:
        entry = journal.read(name)
        if entry is None:
            return None
        found = to_extraction(entry, self._suffixes(part))
        if found is None:
            raise UsageError(
                f"unfinished/{name}.safetensors: is not of these windows; remove it and "
                "resume again"
            )
        return found


def _extract_dealt(
    parts: Sequence[Part], extract: Extract, advance: Advance, processes: Processes
) -> Iterator[tuple[Part, Extraction]]:
    """The parts in rounds: one for each process, which all of them then have."""

    def advance_all(done: int) -> None:
        advance(done * processes.size)  # the others are about as far

    found = extract(processes.shard(parts), advance_all if processes.size > 1 else advance)
    for start in range(0, len(parts), processes.size):
        together = parts[start : start + processes.size]
        everyone = processes.gather(next(found, None))
        for part, extraction in zip(together, everyone, strict=False):
            assert extraction is not None  # each process has one, in the order of ranks
            yield part, extraction
