"""Whether a target says the same in one pass as token by token, and what it can go on from.

One pass over a window decides whether it is extracted, and decoding goes on from what an earlier
pass left behind. Both are right only where a target says of a text what it says of it alone and
cut short, which is tried here before hours are spent. Knows the target and its caches; runs it on
random tokens. Knows nothing of prompts, or of windows but their length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from memaudit.attack.decoding import (
    CacheShape,
    CannotGoOn,
    RoomyCache,
    grow_model_cache,
    probe_cache,
    with_cache,
)
from memaudit.attack.forward import last_logits
from memaudit.attack.memory import let_go
from memaudit.errors import RunError, TargetError
from memaudit.system.memory import FAILED_ALLOCATION, is_out_of_memory
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.failures import FAILURES, brief, quiet_transformers
from memaudit.target.softprompt_check import architecture_of, random_ids

ROWS = 2
"""Texts tried together: with a single one, faults that mix texts up would not show."""
STEPS = 2
"""Tokens fed one by one to what an earlier pass left."""
SHARE = {torch.float32: 2**-5, torch.float16: 2**-2, torch.bfloat16: 2**-2}
"""How far apart two passes may be, as a share of what lies between two other texts. Rounding in
bfloat16 makes 0.01 to 0.05 (random targets of 24 layers, dense and of 64 experts); a cache that
mixes texts up or loses places makes 0.4 and more."""
LEAST = {torch.float32: 0.01, torch.float16: 0.1, torch.bfloat16: 0.1}
"""What is taken to lie between two other texts at least, in total variation: a target that says
much the same of any text must not be held to its rounding."""

T = TypeVar("T")


CUT = "cache"
OWN = "own state"
ANEW = "whole passes"
"""What decoding goes on from: a cache of keys and values that is cut back to the first mismatch,
the cache or state that the model itself keeps, or nothing: a whole pass for each token."""


@dataclass(frozen=True)
class Decoding:
    """How a target is decoded: what decoding goes on from, and why from that."""

    shape: CacheShape | None
    """Of keys and values that can be cut back to any earlier token; None where they cannot."""
    carries: bool
    """Whether the state it keeps itself, handed back to it, stands for all that came before."""
    reason: str

    @property
    def path(self) -> str:
        """CUT, a cache of our own; OWN, what the model itself keeps; or ANEW, nothing."""
        if self.shape is not None:
            return CUT
        return OWN if self.carries else ANEW


class Tried(NamedTuple):
    """One way of going on from an earlier pass."""

    logits: Tensor
    """(B,STEPS+1,X)."""
    shape: CacheShape | None
    """Of the cache, where it was cut back."""


@torch.inference_mode()
def choose_decoding(checkpoint: Checkpoint, tokens: int) -> Decoding:
    """The fastest way of decoding that gives what a pass over the whole text gives.

    tokens: how much text to go on from. Raises RunError where there is no memory for even this.
    """

    def choose(rows: int) -> Decoding:
        vectors = checkpoint.embed(random_ids(checkpoint, rows, tokens + STEPS))
        return _first_that_agrees(checkpoint, vectors)

    return _with_memory(checkpoint, choose)


def _with_memory(checkpoint: Checkpoint, attempt: Callable[[int], T]) -> T:
    """What the attempt gives for ROWS texts, or for one where memory does not hold as many."""
    for rows in (ROWS, 1):
        try:
            return attempt(rows)
        except FAILED_ALLOCATION as error:
            if not is_out_of_memory(error):
                raise
            let_go(error)
    raise RunError(
        f"{checkpoint.name}: no memory left on {checkpoint.device} for a single text; use a "
        "larger --device, or --dtype bfloat16"
    )


def _first_that_agrees(checkpoint: Checkpoint, vectors: Tensor) -> Decoding:
    """The first way that says at the end of the vectors (B,T,D) what one pass over them says."""
    whole, _ = _logits(checkpoint, STEPS + 1, vectors, use_cache=False)  # (B,STEPS+1,X)
    near = tolerance(whole, checkpoint.dtype)
    reason = "keys and values, cut back to the first mismatch"
    for way, name in ((_cut_back, "a cache that was cut back"), (_own_state, "its own cache")):
        try:
            tried = way(checkpoint, vectors)
        except CannotGoOn as obstacle:
            reason = str(obstacle)
        except FAILURES as error:
            if is_out_of_memory(error):
                raise
            reason = f"it fails with {name}: {brief(error)}"
        else:
            if agree(tried.logits, whole, near):
                return Decoding(tried.shape, carries=True, reason=reason)
            reason = f"{name} gives other logits than a whole pass"
    return Decoding(None, carries=False, reason=f"slow, one for each token: {reason}")


def _cut_back(checkpoint: Checkpoint, vectors: Tensor) -> Tried:
    """With a cache of all vectors (B,T,D) that is cut back before the last ones."""
    shape = probe_cache(checkpoint)
    rows, total = vectors.shape[:2]
    cache = RoomyCache(shape.layers, rows, total)
    cache.focus(slice(0, rows), 0)
    arguments = with_cache(checkpoint, cache)
    said = [_logits(checkpoint, STEPS + 1, vectors, **arguments)[0][:, :1]]
    for place in range(total - STEPS, total):
        cache.focus(slice(0, rows), place)
        said.append(_logits(checkpoint, 1, vectors[:, place : place + 1], **arguments)[0])
    return Tried(torch.cat(said, dim=1), shape)


def _own_state(checkpoint: Checkpoint, vectors: Tensor) -> Tried:
    """With what the target keeps of the vectors (B,T,D), handed back to it."""
    total = vectors.shape[1]
    logits, output = _logits(checkpoint, 1, vectors[:, : total - STEPS], use_cache=True)
    said = [logits]
    for place in range(total - STEPS, total):
        arguments = grow_model_cache(checkpoint, output, place)
        logits, output = _logits(checkpoint, 1, vectors[:, place : place + 1], **arguments)
        said.append(logits)
    return Tried(torch.cat(said, dim=1), None)


@torch.inference_mode()
def check_causal(checkpoint: Checkpoint, context: int, suffix: int) -> None:
    """Make sure that one pass over a window says what greedy decoding of it would.

    context: tokens before the suffix, soft prompt and BOS among them; suffix: S. Some targets are
    causal up to a length only: sparse attention that picks the tokens it looks at, or positions
    that are scaled by the length of the text.

    Raises:
        TargetError: it does not; the message names the model's class and what it did.
        RunError: there is no memory for even this.
    """
    try:
        with quiet_transformers():
            fault = _with_memory(
                checkpoint, lambda rows: _find_fault(checkpoint, (context, suffix), rows)
            )
    except FAILURES as error:
        fault = f"it refuses inputs_embeds ({brief(error)})"
    if fault:
        raise TargetError(
            f"{checkpoint.name}: {architecture_of(checkpoint)} cannot be audited: {fault}"
        )


def _find_fault(checkpoint: Checkpoint, lengths: tuple[int, int], rows: int) -> str | None:
    """The first thing that is wrong with texts of these lengths (context, suffix), or None."""
    context, suffix = lengths
    total = context + suffix - 1
    vectors = checkpoint.embed(random_ids(checkpoint, rows, total))
    together, _ = _logits(checkpoint, suffix, vectors, use_cache=False)
    if not torch.isfinite(together.amax(dim=-1)).all():
        return None  # verification says so, with the remedy
    near = tolerance(together, checkpoint.dtype)
    one, together = vectors[:1], together[:1]  # (1,T,D), (1,S,X)
    alone, _ = _logits(checkpoint, 1, one, use_cache=False)
    if not agree(alone, together[:, -1:], near):
        return "what it says of a text changes with the texts beside it in a batch"
    for place in sorted({0, suffix // 2}):
        short, _ = _logits(checkpoint, 1, one[:, : context + place], use_cache=False)
        if not agree(short, together[:, place : place + 1], near):
            return (
                f"in a text of {total} tokens, what it says of a token changes with those that "
                "follow; if it is a causal language model, use shorter windows (--prefix-tokens, "
                "--suffix-tokens)"
            )
    return None


def _logits(
    checkpoint: Checkpoint, count: int, vectors: Tensor, **state: Any
) -> tuple[Tensor, Any]:
    """As :func:`last_logits`, of a copy: some targets (CTRL) scale their inputs in place."""
    return last_logits(checkpoint, count, vectors.clone(), **state)


def tolerance(whole: Tensor, dtype: torch.dtype) -> float:
    """The distance below which two passes agree; whole: (B,T,X), logits of two other texts.

    Of a single one it is not known what lies between two: half of the most there can be.
    """
    between = float(distance(whole[:1], whole[1:])) if len(whole) > 1 else 0.5
    return SHARE.get(dtype, 2**-2) * max(between, LEAST.get(dtype, 0.1))


def agree(one: Tensor, two: Tensor, near: float) -> bool:
    """Whether two logits (B,T,X) are of the same next-token distributions but for rounding."""
    return one.shape == two.shape and bool(distance(one, two) <= near)


def distance(one: Tensor, two: Tensor) -> Tensor:
    """Mean total variation, in [0,1], of the next-token distributions of two logits (B,T,X).

    Distributions are compared, since logits that are masked off may be any negative number.
    """
    apart = one.float().softmax(dim=-1) - two.float().softmax(dim=-1)
    return apart.abs().sum(dim=-1).mean() / 2
