"""Feed-forward units, and passes in which some of them are silenced.

A unit is one input of a block's feed-forward down projection. Units are numbered through the model,
block after block. A silenced unit has the same value at every position, for any text.
Knows hooks and units silenced row by row, not which units to silence. U: units of a model, M: units
of one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memaudit.attack.journal import Advance
from memaudit.attack.verification import log_likelihood, most_likely
from memaudit.diagnose.anatomy.blocks import Block, down_inputs, unit_inputs
from memaudit.diagnose.passes import Found, Pass, Passes
from memaudit.errors import TargetError
from memaudit.score.stats import Floats, Ints
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.softprompt_check import architecture_of

Ids = npt.NDArray[np.int32]
Levels = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Units:
    """Units of a model."""

    blocks: Sequence[Block]
    """Blocks with units."""

    @property
    def widths(self) -> Ints:
        """(blocks,) M of each block."""
        return np.array([block.units for block in self.blocks], dtype=np.int64)

    @property
    def total(self) -> int:
        """U."""
        return int(self.widths.sum())

    @property
    def shares(self) -> Floats:
        """(blocks,) share of all units in each block."""
        return np.asarray(self.widths / self.widths.sum())

    @property
    def starts(self) -> Ints:
        """(blocks,) number of each block's first unit."""
        return self.widths.cumsum() - self.widths

    def by_block(self, units: Ints) -> list[Ints]:
        """Return the units (n,) by block, numbered within the block."""
        return [
            units[(units >= start) & (units < start + width)] - start
            for start, width in zip(self.starts, self.widths, strict=True)
        ]

    def counts(self, units: Ints) -> Ints:
        """Return the number of the units (n,) in each block: (blocks,)."""
        return np.array([len(members) for members in self.by_block(units)], dtype=np.int64)

    def sample_alike(self, units: Ints, rng: np.random.Generator) -> Ints:
        """Sample random units (n,), as many in each block as in ``units`` (n,)."""
        blocks = zip(self.starts, self.widths, self.counts(units), strict=True)
        sampled = [
            start + rng.choice(width, count, replace=False) for start, width, count in blocks
        ]
        return np.concatenate(sampled)


def find_units(checkpoint: Checkpoint, blocks: Sequence[Block]) -> Units:
    """Return the units of a model's blocks.

    Raises:
        TargetError: it has no units that can be silenced one by one.
    """
    able = [block for block in blocks if block.units]
    if not able:
        raise TargetError(
            f"{checkpoint.name}: {architecture_of(checkpoint)} has no feed-forward units that "
            "can be silenced one by one"
        )
    return Units(able)


def score_suffix(passed: Pass) -> dict[str, Tensor]:
    """Return ``wrong``, the suffix tokens that are not the arg-max, and ``nll``, nats/token: (B,).

    Greedy decoding returns the suffix only if no token is wrong.
    """
    predicted = most_likely(passed.logits)
    return {
        "wrong": (predicted != passed.tokens).sum(dim=1),
        "nll": -log_likelihood(passed.logits, passed.tokens).double().mean(dim=1),
    }


@dataclass(frozen=True, eq=False)
class Silencer:
    """Passes in which every window has its own silenced units."""

    passes: Passes
    units: Units
    level: Levels
    """(U,) value of each unit while silenced."""

    def score(self, ids: Ids, sets: Sequence[Ints], advance: Advance = lambda done: None) -> Found:
        """Return `score_suffix` of ids (N,P+S), with one of N ``sets`` of units silenced in each.

        An empty set silences nothing.
        """
        by_window = [self.units.by_block(units_of_window) for units_of_window in sets]
        current: list[int] = []  # windows of the pass

        def begin(rows: Ints) -> None:
            current[:] = rows.tolist()

        with ExitStack() as hooks:
            for number, block in enumerate(self.units.blocks):
                rows = [units_of_window[number] for units_of_window in by_window]
                if any(map(len, rows)):
                    hooks.enter_context(self._silenced(block, number, rows, current))
            return self.passes.read(ids, score_suffix, advance, begin=begin)

    @contextmanager
    def _silenced(
        self, block: Block, number: int, rows: Sequence[Ints], current: Sequence[int]
    ) -> Iterator[None]:
        """Silence the units of one block.

        rows: (N) the units that each row silences. current: (B,) rows of the pass.
        """
        first = int(self.units.starts[number])
        cut = np.cumsum([0, *block.widths])
        level = torch.as_tensor(self.level[first : first + block.units])

        def change(place: int, given: Tensor) -> Tensor:
            silent = np.zeros((len(given), 1, block.units), dtype=bool)
            for at, row in enumerate(current):
                silent[at, 0, rows[row]] = True
            part = slice(int(cut[place]), int(cut[place + 1]))
            where = torch.from_numpy(silent[..., part]).to(given.device)
            return torch.where(where, level[part].to(given.device, given.dtype), given)

        with down_inputs(block, change):
            yield


def mean_levels(passes: Passes, units: Units, ids: Ids) -> Levels:
    """Return each unit's mean (U,) over the suffix positions of ids (N,P+S)."""
    suffix = ids.shape[1] - passes.prefix_tokens
    with unit_inputs(units.blocks) as inputs:

        def read(passed: Pass) -> dict[str, Tensor]:
            given = [inputs[block.number][:, -suffix:] for block in units.blocks]
            means = [states.float().mean(dim=1).cpu() for states in given]
            return {"mean": torch.cat(means, dim=1)}

        means = passes.read(ids, read, last=1)
    return np.asarray(means["mean"].mean(axis=0, dtype=np.float64), dtype=np.float32)
