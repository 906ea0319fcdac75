"""Teacher-forced passes of a model over windows, and the figures that a diagnosis reads from them.

Knows models, ids and how batches shrink if memory is short. Must not know which figures are read,
nor which hooks the model has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.extraction import first_alike
from memaudit.attack.forward import build_inputs, last_logits
from memaudit.attack.journal import Advance
from memaudit.attack.memory import Backoff, release_memory
from memaudit.attack.prompts import NoPrompt, SoftPrompt
from memaudit.attack.verification import require_finite
from memaudit.data.windows import PADDING
from memaudit.errors import RunError
from memaudit.score.stats import Ints
from memaudit.system.memory import FAILED_ALLOCATION, is_out_of_memory
from memaudit.target.checkpoint import Checkpoint


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass over B windows."""

    logits: Tensor
    """(B,L,X) float32 of the last L positions, which predict ``tokens``."""
    tokens: Tensor
    """(B,L) the last L tokens of the windows; the suffix if L = S. All B prefixes have one length,
    and L is smaller than asked where that length is too short."""
    output: Any
    """Full output of the model."""


_NO_ROOM = "out of memory with a single window; use another --device"
Read = Callable[[Pass], Mapping[str, Tensor]]
"""Returns figures by name, each (B,...), after a pass. It is called again for the same windows if
memory runs out in between."""
Begin = Callable[[Ints], None]
"""Called before each pass with the rows of its windows (B,)."""
Found = dict[str, NDArray[Any]]
"""Figures of all N windows by name, each (N,...)."""


@dataclass(frozen=True, eq=False)
class Passes:
    """Passes of one model over windows; no gradient, no cache."""

    checkpoint: Checkpoint
    prefix_tokens: int
    """P, of the (N,P+S) ids. PADDING before a shorter prefix reaches no model."""
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
        begin: Begin = lambda rows: None,
    ) -> Found:
        """Return the figures that ``read`` takes from passes over ids (N,P+S), N at least 1.

        last: L, positions whose logits are computed; default S, at most P+S-1 (P+S if inputs start
        with BOS), and less for a shorter prefix. prompt: soft prompt before the prefix; default
        none. The input is [BOS]; prompt; prefix; suffix without its last token.

        Raises:
            RunError: a single window does not fit into memory, or logits are not finite.
        """

        def work(rows: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
            figures = read(self._pass(rows, last, prompt or NoPrompt()))
            # Copies, since a view into the logits would keep all of them in memory.
            return {name: value.cpu().numpy().copy() for name, value in figures.items()}

        return in_batches(ids, self.batch_size, work, advance, begin)

    def _pass(self, rows: NDArray[np.int32], last: int | None, prompt: SoftPrompt) -> Pass:
        ids = torch.as_tensor(rows, dtype=torch.long, device=self.checkpoint.device)
        inputs = build_inputs(self.checkpoint, prompt, ids[:, :-1], self.prefix_tokens)
        count = ids.shape[1] - self.prefix_tokens if last is None else last
        if rows[0, 0] == PADDING:
            count = min(count, int((rows[0] != PADDING).sum()) - 1)
        logits, output = last_logits(
            self.checkpoint, count, inputs, use_cache=False, **self.options
        )
        logits = logits.float()
        require_finite(self.checkpoint, ~logits.amax(dim=-1).isnan().any(dim=1), ids)
        return Pass(logits, ids[:, -count:], output)


def in_batches(
    ids: NDArray[np.int32],
    size: int,
    work: Callable[[NDArray[np.int32]], Found],
    advance: Advance,
    begin: Begin = lambda rows: None,
    no_room: str = _NO_ROOM,
) -> Found:
    """Return the figures that ``work`` takes from batches of ids (N,P+S), N at least 1.

    Prefixes of a batch have one length, so no model reads padding; each further length costs up to
    one more batch. Batches shrink while memory is short. The figures are in the order of the ids.

    Raises RunError, with ``no_room``, if a single window does not fit into memory.
    """
    padding = padding_of(ids)
    order, parts = np.argsort(padding, kind="stable"), []
    backoff, start = Backoff(), 0
    while start < len(ids):
        rows = first_alike(order[start : start + backoff.fits(size)], padding)
        try:
            begin(rows)
            parts.append(work(ids[rows]))
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
    figures = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: _put_back(values, order) for name, values in figures.items()}


def _put_back(values: NDArray[Any], order: Ints) -> NDArray[Any]:
    """Return values (N,...) that are in this order in the order of the ids."""
    restored = np.empty_like(values)
    restored[order] = values
    return restored


def padding_of(ids: NDArray[np.int32]) -> Ints:
    """Count the padding before each window or prefix (N,T): (N,)."""
    return np.asarray((ids == PADDING).sum(axis=1), dtype=np.int64)


def by_length(ids: NDArray[np.int32]) -> Iterator[tuple[Ints, NDArray[np.int32]]]:
    """Yield the rows of each length in ids (N,T), and their ids without padding."""
    padding = padding_of(ids)
    for count in np.unique(padding):
        rows = np.flatnonzero(padding == count)
        yield rows, ids[rows, count:]
