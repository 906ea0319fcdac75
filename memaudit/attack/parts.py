"""Extraction in parts: finished parts are stored in the journal, the rest is shared out.

Knows windows by role and row, processes, shards and the journal. Knows nothing of prompts: the
function that extracts a part is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memaudit.attack.extraction import Extraction
from memaudit.attack.journal import Advance, Journal
from memaudit.attack.stored_work import entry_to_extraction, extraction_to_entry
from memaudit.config.shard import Shard
from memaudit.distributed import Processes
from memaudit.errors import UsageError


@dataclass(frozen=True, eq=False)
class Side:
    """The windows of one role: data or controls."""

    ids: NDArray[np.int32]
    """(N,P+S)."""
    fold: NDArray[np.int64]
    """(N,) fold whose prompts score each window."""


@dataclass(frozen=True, eq=False)
class Part:
    """Windows extracted together with one prompt."""

    role: str
    """``data`` or ``control``."""
    fold: int
    """Fold of the prompt; the first fold if several share it."""
    start: int
    """Index of the first window among those of this role and prompt."""
    rows: NDArray[np.int64]
    """Rows of the windows in the role."""

    @property
    def name(self) -> str:
        """Name of the part, unique in its attack."""
        return f"{self.role}-{self.fold}-{self.start}-{len(self.rows)}"


PARTS = 4
"""Smallest number of parts per role and prompt, if there are enough windows: parts are shared out
between processes, and stored when they are done."""
WHOLE_PASSES = 64
"""Part sizes are a multiple of this, so that no pass is half empty."""

Extract = Callable[[Sequence[Part], Advance], Iterator[Extraction]]
"""Extracts parts lazily, in order."""


def cut(
    sides: Mapping[str, Side], prompts: Iterable[Sequence[int]], limit: int | None = None
) -> list[Part]:
    """Cut all windows into parts of one role and of folds that share a prompt.

    prompts: the folds of each prompt. limit: largest part; None gives one part per role and
    prompt. The cuts depend on nothing else, so all machines make the same.
    """
    parts = []
    for folds in prompts:
        for role, side in sides.items():
            rows = np.flatnonzero(np.isin(side.fold, folds))
            if not len(rows):
                continue
            share = math.ceil(len(rows) / PARTS / WHOLE_PASSES) * WHOLE_PASSES
            size = len(rows) if limit is None else min(limit, share)
            for start in range(0, len(rows), size):
                parts.append(Part(role, int(folds[0]), start, rows[start : start + size]))
    return parts


def shard_parts(parts: Sequence[Part], shard: Shard | None, folds: int | None) -> list[Part]:
    """Return the parts of one shard.

    folds: number of prompts to fit first, or None. A shard then takes whole folds; if there are
    more shards than folds, several shards share a fold.
    """
    if shard is None:
        return list(parts)
    if folds is None:
        return list(parts[shard.index :: shard.count])
    selected = []
    for fold in range(folds):
        shards = shards_of_fold(fold, folds, shard.count)
        if shard.index in shards:
            of_fold = [part for part in parts if part.fold == fold]
            selected += of_fold[shards.index(shard.index) :: len(shards)]
    return selected


def shards_of_fold(fold: int, folds: int, shards: int) -> list[int]:
    """Indices of the shards that extract this fold."""
    return [fold % shards] if shards <= folds else list(range(fold, shards, folds))


class PartWork:
    """Extracts the parts of an attack that the journal lacks, with all processes."""

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
        """Return the extractions of the parts by role; windows in no part stay empty.

        name: the attack's name in the journal. Raises UsageError if the journal holds something
        else under a part's name.
        """
        whole = {
            role: Extraction.empty(len(side.ids), side.ids.shape[1] - self._prefix)
            for role, side in self._sides.items()
        }
        missing, processes = [], self._processes
        for part in parts:
            stored = (
                self._stored(f"{name}-{part.name}", part, journal) if processes.is_main else None
            )
            if (known := processes.broadcast(stored)) is not None:
                whole[part.role].write(part.rows, known)
                advance(len(part.rows))
            else:
                missing.append(part)
        for part, extraction in _extract_in_rounds(missing, extract, advance, processes):
            whole[part.role].write(part.rows, extraction)
            if processes.is_main:
                entry = extraction_to_entry(extraction, self._suffixes(part))
                journal.keep(f"{name}-{part.name}", entry)
        return whole

    def _suffixes(self, part: Part) -> NDArray[np.int32]:
        return self._sides[part.role].ids[part.rows, self._prefix :]

    def _stored(self, name: str, part: Part, journal: Journal) -> Extraction | None:
        entry = journal.read(name)
        if entry is None:
            return None
        extraction = entry_to_extraction(entry, self._suffixes(part))
        if extraction is None:
            raise UsageError(
                f"unfinished/{name}.safetensors: does not belong to these windows; remove it and "
                "resume again"
            )
        return extraction


def _extract_in_rounds(
    parts: Sequence[Part], extract: Extract, advance: Advance, processes: Processes
) -> Iterator[tuple[Part, Extraction]]:
    """Extract one part per process and round; every process gets all results."""

    def advance_all(done: int) -> None:
        advance(done * processes.size)  # the other ranks are about as far

    extractions = extract(processes.shard(parts), advance_all if processes.size > 1 else advance)
    for start in range(0, len(parts), processes.size):
        round_parts = parts[start : start + processes.size]
        gathered = processes.gather(next(extractions, None))
        for part, extraction in zip(round_parts, gathered, strict=False):
            assert extraction is not None  # one for each rank, in the order of ranks
            yield part, extraction
