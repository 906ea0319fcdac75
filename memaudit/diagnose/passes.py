"""Teacher-forced passes of a model over windows, and the figures that a diagnosis reads from them.

Knows models, ids and how batches shrink if memory is short. Must not know which figures are read,
nor which hooks the model has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.extraction import Advance
from memaudit.attack.forward import build_inputs, last_logits
from memaudit.attack.memory import Backoff, release_memory
from memaudit.attack.prompts import NoPrompt, SoftPrompt
from memaudit.attack.verification import require_finite
from memaudit.errors import RunError
from memaudit.system.memory import FAILED_ALLOCATION, is_out_of_memory
from memaudit.target.checkpoint import Checkpoint


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass over B windows."""

    logits: Tensor
    """(B,L,X) float32 of the last L positions, which predict ``tokens``."""
    tokens: Tensor
    """(B,L) the last L tokens of the windows; the suffix if L = S."""
    output: Any
    """Full output of the model."""


_NO_ROOM = "out of memory with a single window; use another --device"
Read = Callable[[Pass], Mapping[str, Tensor]]
"""Returns figures by name, each (B,...), after a pass. It is called again for the same windows if
memory runs out in between."""
Part = TypeVar("Part")
Found = dict[str, NDArray[Any]]
"""Figures of all N windows by name, each (N,...)."""


@dataclass(frozen=True, eq=False)
class Passes:
    """Passes of one model over windows of one shape; no gradient, no cache."""

    checkpoint: Checkpoint
    prefix_tokens: int
    """P, of the (N,P+S) ids."""
    batch_size: int
    """Windows per pass; halved whenever memory runs out, and doubled again later."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the model's ``forward``."""

    @torch.no_grad()
    def read(
        self,
        ids: NDArray[np.int32],
        read: Read,
        advance: Advance = lambda done: None,
        *,
        last: int | None = None,
        prompt: SoftPrompt | None = None,
    ) -> Found:
        """Return the figures that ``read`` takes from passes over ids (N,P+S), N at least 1.

        last: L, positions whose logits are computed; default S, at most P+S-1 (P+S if inputs start
        with BOS). prompt: soft prompt before the prefix; default none. The input is [BOS]; prompt;
        prefix; suffix without its last token.

        Raises:
            RunError: a single window does not fit into memory, or logits are not finite.
        """

        def work(rows: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
            figures = read(self._pass(rows, last, prompt or NoPrompt()))
            # Copies, since a view into the logits would keep all of them in memory.
            return {name: value.cpu().numpy().copy() for name, value in figures.items()}

        parts = in_batches(ids, self.batch_size, work, advance)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _pass(self, rows: NDArray[np.int32], last: int | None, prompt: SoftPrompt) -> Pass:
        ids = torch.as_tensor(rows, dtype=torch.long, device=self.checkpoint.device)
        count = ids.shape[1] - self.prefix_tokens if last is None else last
        inputs = build_inputs(self.checkpoint, prompt, ids[:, :-1], self.prefix_tokens)
        logits, output = last_logits(
            self.checkpoint, count, inputs, use_cache=False, **self.options
        )
        logits = logits.float()
        require_finite(self.checkpoint, ~logits.amax(dim=-1).isnan().any(dim=1), ids)
        return Pass(logits, ids[:, -count:], output)


def in_batches(
    ids: NDArray[np.int32],
    size: int,
    work: Callable[[NDArray[np.int32]], Part],
    advance: Advance,
    no_room: str = _NO_ROOM,
) -> list[Part]:
    """Call ``work`` on batches of ids (N,P+S), smaller ones while memory is short.

    Raises RunError, with ``no_room``, if a single window does not fit into memory.
    """
    parts: list[Part] = []
    backoff, start = Backoff(), 0
    while start < len(ids):
        rows = ids[start : start + backoff.fits(size)]
        try:
            parts.append(work(rows))
        except FAILED_ALLOCATION as error:
            if not is_out_of_memory(error):
                raise
            if len(rows) == 1:
                raise RunError(no_room) from error
            backoff.shrink()
            release_memory(error)
        else:
            backoff.passed()
            advance(len(rows))
            start += len(rows)
    return parts
