"""What a model is sure of, token by token: entropy, log-probabilities and states of a pass.

Knows ids and one model. Knows nothing of groups, of scores, nor of what the figures are for.
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

from memaudit.attack.extraction import Advance
from memaudit.diagnose.passes import Found, Pass, Passes

_CELLS = 1 << 24
"""Logits turned into probabilities at once: 64 MiB of float32."""
LEAST_LOG_P = -100.0
"""What a less likely token counts as, nats, so that one impossible token makes no mean infinite."""


def figure_positions(logits: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """What the distributions of logits (B,L,X) float32 say, and of tokens (B,L): each (B,L).

    ``entropy``: -sum p ln p over the vocabulary, nats (Shannon 1948), an impossible token adding
    nothing; ``log_p``: ln p of the token; ``top_p``: the largest p; ``first``: whether the token
    has it. Some positions at a time, so that little is held beside the logits.
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
    """Figures of :func:`figure_positions` for each window of ids (N,P+S): each (N,P+S-1).

    Column c is of token c+1: the first token is foretold by nothing but BOS, if that.
    """
    if not len(ids):
        return _nothing(ids.shape[1] - 1)

    def read(one: Pass) -> Mapping[str, Tensor]:
        return figure_positions(one.logits, one.tokens)

    return passes.read(ids, read, advance, last=ids.shape[1] - 1)


def _nothing(columns: int) -> Found:
    return {
        name: np.empty((0, columns), dtype=bool if name == "first" else np.float32)
        for name in ("entropy", "log_p", "top_p", "first")
    }


@dataclass(frozen=True, eq=False)
class PrefixReading:
    """What a model makes of N prefixes before anything follows them."""

    entropy: NDArray[np.float32]
    """(N,P) of what is foretold after each prefix token, nats; the last is of the border."""
    top_p: NDArray[np.float32]
    """(N,P) likewise."""
    log_p: NDArray[np.float32]
    """(N,P-1) ln p of each prefix token but the first, nats."""
    first: NDArray[np.bool_]
    """(N,P-1) whether that token was the likeliest."""
    state: NDArray[np.float32] | None
    """(N,D) what the output head reads at the last prefix token; None where it has no such."""
    likeness: NDArray[np.float32] | None
    """(N,) mean cosine of the states of two different prefix tokens; None as above, or if P is 1.
    """


def read_prefixes(passes: Passes, prefixes: NDArray[np.int32], advance: Advance) -> PrefixReading:
    """Read N prefixes (N,P), N at least 1, in a pass over P tokens each.

    The model is given these ids and nothing else: a pass wants a last token that it does not put
    in, and gets the prefix's own once more.
    """
    length = prefixes.shape[1]
    padded = np.concatenate([prefixes, prefixes[:, -1:]], axis=1)
    with listen_to_head(passes) as heard:

        def read(one: Pass) -> Mapping[str, Tensor]:
            found = figure_positions(one.logits, one.tokens)
            found["log_p"], found["first"] = found["log_p"][:, :-1], found["first"][:, :-1]
            states = heard.last(len(one.tokens), length)
            if states is not None:
                found |= {"state": states[:, -1].float()}
                if length > 1:
                    found |= {"likeness": mean_cosine(states.float())}
            return found

        found = passes.read(padded, read, advance, last=length)
    return PrefixReading(
        found["entropy"],
        found["top_p"],
        found["log_p"],
        found["first"],
        _finite(found.get("state")),
        _finite(found.get("likeness")),
    )


def mean_cosine(states: Tensor) -> Tensor:
    """Mean cosine of two different ones of T states (B,T,D), T at least 2: (B,).

    The squared length of the sum of unit vectors counts each pair twice and each state once.
    """
    count = states.shape[1]
    total = nn.functional.normalize(states, dim=-1).sum(dim=1)
    return (total.square().sum(dim=-1) - count) / (count * (count - 1))


def _finite(values: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    return values if values is not None and np.isfinite(values).all() else None


@dataclass
class Heard:
    """What went into the output head in the last pass."""

    given: list[Tensor] = field(default_factory=list)

    def last(self, rows: int, count: int) -> Tensor | None:
        """(B,count,D) of the last positions; None where the head is given no such thing."""
        if len(self.given) != 1:
            return None
        states = self.given[0]
        if states.ndim != 3 or states.shape[0] != rows or states.shape[1] < count:
            return None
        return states[:, -count:]


@contextmanager
def listen_to_head(passes: Passes) -> Iterator[Heard]:
    """Hear what is given to the output head, whose logits are linear in it.

    It is what the next token is read from, and the one state that every architecture has in
    common; nothing is changed. Whoever computes logits without that module is not heard.
    """
    heard, model = Heard(), passes.checkpoint.model
    head = model.get_output_embeddings()

    def begin(*_: object) -> None:
        heard.given.clear()

    def hear(_: nn.Module, given: tuple[object, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            heard.given.append(given[0].detach())

    hooks = [model.register_forward_pre_hook(begin)]
    try:
        if isinstance(head, nn.Module):
            hooks.append(head.register_forward_pre_hook(hear))
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
        heard.given.clear()


def passes_for(passes: Passes, positions: int, suffix_tokens: int) -> Passes:
    """The same passes with fewer windows each where more logits are made than S of a window."""
    most = max(1, math.floor(passes.batch_size * suffix_tokens / max(positions, suffix_tokens)))
    return Passes(passes.checkpoint, passes.prefix_tokens, most, passes.options)
