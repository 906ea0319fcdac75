"""Entropy, log-probabilities and states of a pass, token by token.

Knows ids and one model. Knows nothing of groups or scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from memaudit.attack.journal import Advance
from memaudit.diagnose.passes import Found, Pass, Passes

_CELLS = 1 << 24
"""Logits turned into probabilities at once: 64 MiB of float32."""
LEAST_LOG_P = -100.0
"""Lower bound of log p, nats: one impossible token must not make a mean infinite."""


def figure_positions(logits: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Return figures (B,L) of the distributions of logits (B,L,X) float32 and of tokens (B,L).

    ``entropy``: -sum p ln p over the vocabulary, nats (Shannon 1948), an impossible token adding
    nothing; ``log_p``: ln p of the token; ``top_p``: the largest p; ``first``: whether the token
    has it. Some positions at a time, to save memory.
    """
    count = max(1, _CELLS // max(1, logits.shape[0] * logits.shape[2]))
    parts = [
        _figures(logits[:, start : start + count], tokens[:, start : start + count])
        for start in range(0, logits.shape[1], count)
    ]
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}


def _figures(logits: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    log_p = logits.log_softmax(dim=-1)
    entropy = torch.special.entr(log_p.exp()).sum(dim=-1)
    best, place = log_p.max(dim=-1)
    own = log_p.gather(-1, tokens[..., None])[..., 0]
    return {
        "entropy": entropy,
        "log_p": own.clamp(min=LEAST_LOG_P),
        "top_p": best.exp(),
        "first": place == tokens,
    }


def read_windows(passes: Passes, ids: NDArray[np.int32], advance: Advance) -> Found:
    """Return the figures of :func:`figure_positions` of windows ids (N,P+S), each (N,P+S-1).

    Column c belongs to token c+1: no token of the window precedes the first. Columns of padding,
    and of the first token after it, are NaN, or False.
    """
    positions = ids.shape[1] - 1

    def read(batch: Pass) -> Mapping[str, Tensor]:
        figures = figure_positions(batch.logits, batch.tokens)
        lacking = positions - batch.tokens.shape[1]
        return {
            name: nn.functional.pad(values, (lacking, 0), value=blank)
            for name, values in figures.items()
            for blank in (False if values.dtype == torch.bool else math.nan,)
        }

    return passes.read(ids, read, advance, last=positions)


@dataclass(frozen=True, eq=False)
class PrefixReading:
    """Figures of N prefixes, before any suffix."""

    entropy: NDArray[np.float32]
    """(N,P) entropy of the next token after each prefix token, nats; the last is at the border."""
    top_p: NDArray[np.float32]
    """(N,P) largest p of the next token."""
    log_p: NDArray[np.float32]
    """(N,P-1) ln p of each prefix token but the first, nats."""
    first: NDArray[np.bool_]
    """(N,P-1) whether that token was the likeliest."""
    state: NDArray[np.float32] | None
    """(N,D) input of the output head at the last prefix token; None if it cannot be read."""
    likeness: NDArray[np.float32] | None
    """(N,) mean cosine of the states of two different prefix tokens; None without states, or if P
    is 1."""

    @property
    def states(self) -> dict[str, NDArray[np.float32]]:
        """``state`` and ``likeness``, if they could be read."""
        read = {"state": self.state, "likeness": self.likeness}
        return {name: values for name, values in read.items() if values is not None}


def read_prefixes(passes: Passes, prefixes: NDArray[np.int32], advance: Advance) -> PrefixReading:
    """Read N prefixes (N,P), N at least 1, in a pass over P tokens each.

    The model sees only these ids. A pass leaves out the last token, so the prefix's last token is
    appended once more.
    """
    length = prefixes.shape[1]
    padded = np.concatenate([prefixes, prefixes[:, -1:]], axis=1)
    with record_head(passes) as recorded:

        def read(batch: Pass) -> Mapping[str, Tensor]:
            figures = figure_positions(batch.logits, batch.tokens)
            figures["log_p"], figures["first"] = figures["log_p"][:, :-1], figures["first"][:, :-1]
            states = recorded.last(len(batch.tokens), length)
            if states is not None:
                figures |= {"state": states[:, -1].float()}
                if length > 1:
                    figures |= {"likeness": mean_cosine(states.float())}
            return figures

        figures = passes.read(padded, read, advance, last=length)
    return PrefixReading(
        figures["entropy"],
        figures["top_p"],
        figures["log_p"],
        figures["first"],
        _finite(figures.get("state")),
        _finite(figures.get("likeness")),
    )


def mean_cosine(states: Tensor) -> Tensor:
    """Return the mean cosine (B,) of two different states of (B,T,D), T at least 2.

    The squared length of the sum of unit vectors counts each pair twice and each state once.
    """
    count = states.shape[1]
    total = nn.functional.normalize(states, dim=-1).sum(dim=1)
    return (total.square().sum(dim=-1) - count) / (count * (count - 1))


def _finite(values: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    return values if values is not None and np.isfinite(values).all() else None


@dataclass
class HeadInputs:
    """Inputs of the output head in the last pass."""

    inputs: list[Tensor] = field(default_factory=list)

    def last(self, rows: int, count: int) -> Tensor | None:
        """(B,count,D) at the last positions; None if the head had no such input."""
        if len(self.inputs) != 1:
            return None
        states = self.inputs[0]
        if states.ndim != 3 or states.shape[0] != rows or states.shape[1] < count:
            return None
        return states[:, -count:]


@contextmanager
def record_head(passes: Passes) -> Iterator[HeadInputs]:
    """Record the inputs of the output head, whose logits are linear in them.

    Every architecture has this state. Nothing is changed. A model that computes its logits without
    that module records nothing.
    """
    recorded, model = HeadInputs(), passes.checkpoint.model
    head = model.get_output_embeddings()

    def begin(*_: object) -> None:
        recorded.inputs.clear()

    def record(_: nn.Module, inputs: tuple[object, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            recorded.inputs.append(inputs[0].detach())

    hooks = [model.register_forward_pre_hook(begin)]
    try:
        if isinstance(head, nn.Module):
            hooks.append(head.register_forward_pre_hook(record))
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()
        recorded.inputs.clear()


def passes_for(passes: Passes, positions: int, suffix_tokens: int) -> Passes:
    """Return passes with fewer windows each if they compute more than S logits of a window."""
    batch_size = max(
        1, math.floor(passes.batch_size * suffix_tokens / max(positions, suffix_tokens))
    )
    return Passes(passes.checkpoint, passes.prefix_tokens, batch_size, passes.options)
