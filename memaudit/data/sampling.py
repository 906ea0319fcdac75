"""Random sampling of records, and their batches.

Knows samples. Must not know tokens or windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from memaudit.data.samples import Sample, Skipped

_BATCH = 256  # samples encoded together: enough for a fast tokenizer, with little memory
_BATCH_CHARACTERS = 1 << 20  # characters encoded together: their tokens may take 0.5 GiB


@dataclass(frozen=True)
class Numbered:
    """A record and its position in the file."""

    item: Sample | Skipped
    place: int
    """Number of records before it."""
    number: int
    """Number of good records before it."""


def _numbered(samples: Iterable[Sample | Skipped]) -> Iterator[Numbered]:
    number = 0
    for place, item in enumerate(samples):
        yield Numbered(item, place, number)
        number += isinstance(item, Sample)


def sample_records(
    samples: Iterable[Sample | Skipped], limit: int | None, rng: np.random.Generator
) -> Iterator[Numbered]:
    """Choose up to ``limit`` samples uniformly at random; yield them and all skips in file order.

    Makes one pass and never holds more than ``limit`` samples (Vitter 1985, algorithm R).
    """
    if limit is None:
        yield from _numbered(samples)
        return
    reservoir: dict[int, Numbered] = {}
    skipped: list[Numbered] = []
    for record in _numbered(samples):
        if isinstance(record.item, Skipped):
            skipped.append(record)
            continue
        slot = record.number if record.number < limit else int(rng.integers(record.number + 1))
        if slot < limit:
            reservoir[slot] = record
    yield from sorted([*reservoir.values(), *skipped], key=lambda record: record.place)


def batches(records: Iterable[Numbered]) -> Iterator[list[Numbered]]:
    """Yield records in batches to encode together, each with at least one record."""
    batch: list[Numbered] = []
    characters = 0
    for record in records:
        size = record.item.characters if isinstance(record.item, Sample) else 0
        if batch and (len(batch) == _BATCH or characters + size > _BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(record)
        characters += size
    if batch:
        yield batch
