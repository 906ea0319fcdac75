"""Which samples are looked at, and how many together.

Knows samples. Must not know tokens or windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from memaudit.data.samples import Sample, Skipped

_BATCH = 256  # samples encoded together: plenty for a fast tokenizer, little memory
_BATCH_CHARACTERS = 1 << 20  # and so many characters, whose tokens may take half a GiB


@dataclass(frozen=True)
class Numbered:
    """A record and where it stands."""

    item: Sample | Skipped
    place: int
    """Records before it."""
    number: int
    """Good records before it."""


def _numbered(samples: Iterable[Sample | Skipped]) -> Iterator[Numbered]:
    number = 0
    for place, item in enumerate(samples):
        yield Numbered(item, place, number)
        number += isinstance(item, Sample)


def draw(
    samples: Iterable[Sample | Skipped], limit: int | None, rng: np.random.Generator
) -> Iterator[Numbered]:
    """At most ``limit`` samples, every such set equally likely, in file order, with all skips.

    One pass that never holds more than ``limit`` samples (Vitter 1985, algorithm R).
    """
    if limit is None:
        yield from _numbered(samples)
        return
    kept: dict[int, Numbered] = {}
    skipped: list[Numbered] = []
    for one in _numbered(samples):
        if isinstance(one.item, Skipped):
            skipped.append(one)
            continue
        slot = one.number if one.number < limit else int(rng.integers(one.number + 1))
        if slot < limit:
            kept[slot] = one
    yield from sorted([*kept.values(), *skipped], key=lambda one: one.place)


def batches(drawn: Iterable[Numbered]) -> Iterator[list[Numbered]]:
    """The records in groups that are encoded together; at least one in each."""
    batch: list[Numbered] = []
    characters = 0
    for one in drawn:
        size = one.item.characters if isinstance(one.item, Sample) else 0
        if batch and (len(batch) == _BATCH or characters + size > _BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(one)
        characters += size
    if batch:
        yield batch
