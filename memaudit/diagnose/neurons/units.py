"""Feed-forward units, and passes in which some of them are silenced.

A unit is one input of a block's feed-forward down projection; all of a model's are numbered
through, block after block. Silenced it gives the same number at every position, whatever the text.
Knows hooks and units silenced row by row. Knows nothing of which are worth it. U stands for the
units of a model, M for those of one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memaudit.attack.extraction import Advance
from memaudit.attack.verification import log_likelihood, most_likely
from memaudit.diagnose.anatomy.blocks import Block, down_inputs, unit_inputs
from memaudit.diagnose.passes import Found, Pass, Passes
from memaudit.errors import TargetError
from memaudit.score.stats import Ints
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.softprompt_check import architecture_of

Ids = npt.NDArray[np.int32]
Levels = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Units:
    """All units of a model."""

    blocks: Sequence[Block]
    """Those that have units."""

    @property
    def widths(self) -> Ints:
        """(blocks,) M of each."""
        return np.array([block.units for block in self.blocks], dtype=np.int64)

    @property
    def starts(self) -> Ints:
        """(blocks,) number of each one's first unit."""
        return self.widths.cumsum() - self.widths

    def by_block(self, units: Ints) -> list[Ints]:
        """The units (n,) of each block, numbered within it."""
        return [
            units[(units >= start) & (units < start + width)] - start
            for start, width in zip(self.starts, self.widths, strict=True)
        ]

    def counts(self, units: Ints) -> Ints:
        """(blocks,) how many of the units (n,) are in each."""
        return np.array([len(some) for some in self.by_block(units)], dtype=np.int64)

    def draw_alike(self, units: Ints, rng: np.random.Generator) -> Ints:
        """As many units of each block as there are among ``units`` (n,), at random: (n,)."""
        each = zip(self.starts, self.widths, self.counts(units), strict=True)
        drawn = [start + rng.choice(width, count, replace=False) for start, width, count in each]
        return np.concatenate(drawn)


def find_units(checkpoint: Checkpoint, blocks: Sequence[Block]) -> Units:
    """The units of a model's blocks.

    Raises:
        TargetError: it has none that could be silenced one by one.
    """
    able = [block for block in blocks if block.units]
    if not able:
        raise TargetError(
            f"{checkpoint.name}: {architecture_of(checkpoint)} has no feed-forward units that "
            "could be silenced one by one"
        )
    return Units(able)


def score_suffix(passed: Pass) -> dict[str, Tensor]:
    """``wrong``: suffix tokens that are not the arg-max, which greedy decoding cannot return while
    there is one; ``nll``: nats/token. Each (B,).
    """
    said = most_likely(passed.logits)
    return {
        "wrong": (said != passed.tokens).sum(dim=1),
        "nll": -log_likelihood(passed.logits, passed.tokens).double().mean(dim=1),
    }


@dataclass(frozen=True, eq=False)
class Silencer:
    """Passes in which every window has silenced units of its own."""

    passes: Passes
    units: Units
    level: Levels
    """(U,) what each gives while it is silenced."""

    def score(self, ids: Ids, sets: Sequence[Ints], advance: Advance = lambda done: None) -> Found:
        """`score_suffix` of ids (N,P+S), with the units of N ``sets`` silenced, one set for each;
        an empty one silences nothing.
        """
        split = [self.units.by_block(some) for some in sets]
        begin = [0]  # the row that the next pass begins with

        def read(passed: Pass) -> dict[str, Tensor]:
            found = score_suffix(passed)
            begin[0] += len(passed.tokens)
            return found

        with ExitStack() as hooks:
            for number, block in enumerate(self.units.blocks):
                rows = [some[number] for some in split]
                if any(map(len, rows)):
                    hooks.enter_context(self._silenced(block, number, rows, begin))
            return self.passes.read(ids, read, advance)

    @contextmanager
    def _silenced(
        self, block: Block, number: int, rows: Sequence[Ints], begin: Sequence[int]
    ) -> Iterator[None]:
        """``rows``: (N) the units of one block that each row silences."""
        first = int(self.units.starts[number])
        cut = np.cumsum([0, *block.widths])
        level = torch.as_tensor(self.level[first : first + block.units])

        def change(place: int, given: Tensor) -> Tensor:
            silent = np.zeros((len(given), 1, block.units), dtype=bool)
            for row in range(len(given)):
                silent[row, 0, rows[begin[0] + row]] = True
            part = slice(int(cut[place]), int(cut[place + 1]))
            where = torch.from_numpy(silent[..., part]).to(given.device)
            return torch.where(where, level[part].to(given.device, given.dtype), given)

        with down_inputs(block, change):
            yield


def mean_levels(passes: Passes, units: Units, ids: Ids) -> Levels:
    """(U,) the mean of each unit over the suffix positions of ids (N,P+S)."""
    suffix = ids.shape[1] - passes.prefix_tokens
    with unit_inputs(units.blocks) as heard:

        def read(passed: Pass) -> dict[str, Tensor]:
            given = [heard[block.number][:, -suffix:] for block in units.blocks]
            return {"mean": torch.cat([one.float().mean(dim=1).cpu() for one in given], dim=1)}

        found = passes.read(ids, read, last=1)
    return np.asarray(found["mean"].mean(axis=0, dtype=np.float64), dtype=np.float32)
