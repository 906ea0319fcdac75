"""Units of a model silenced in every window alike, with which `Silencer` is compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from memaudit.diagnose.anatomy.blocks import Block, down_inputs


@contextmanager
def silenced(
    blocks: Sequence[Block],
    units: Mapping[int, Sequence[int]],
    values: Mapping[int, Sequence[float]] | None = None,
) -> Iterator[None]:
    """Set units, places below M by block number, to their values, or 0, at every position."""
    with ExitStack() as hooks:
        for block in blocks:
            chosen = list(units.get(block.number, ()))
            level = torch.zeros(block.units)
            if values is not None and chosen:
                level[chosen] = torch.as_tensor(values[block.number], dtype=torch.float32)
            silent = torch.zeros(block.units, dtype=torch.bool)
            silent[chosen] = True
            edges = [sum(block.widths[:place]) for place in range(len(block.down) + 1)]

            def change(
                place: int,
                given: Tensor,
                silent: Tensor = silent,
                level: Tensor = level,
                edges: list[int] = edges,
            ) -> Tensor:
                part = slice(edges[place], edges[place + 1])
                return torch.where(silent[part].to(given.device), level[part].to(given), given)

            hooks.enter_context(down_inputs(block, change))
        yield
