"""Check that one pass of a target agrees with decoding, and choose what decoding continues from.

One pass over a window decides whether it is extracted, and decoding continues from the state of an
earlier pass. Both are right only if the logits of a text do not depend on other texts in the batch
or on later tokens. That is tried here before hours are spent. Knows the target and its caches;
runs it on random tokens. Knows nothing of prompts, and only the length of windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from memaudit.attack.decoding import (
    Alignment,
    CacheShape,
    CannotContinue,
    RoomyCache,
    grow_model_cache,
    probe_cache,
    with_cache,
)
from memaudit.attack.forward import accepted_arguments, last_logits
from memaudit.attack.memory import release_memory
from memaudit.errors import RunError
from memaudit.system.memory import FAILED_ALLOCATION, is_out_of_memory
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.failures import FAILURES, brief, quiet_transformers
from memaudit.target.softprompt_check import random_ids, unfit

ROWS = 2
"""Texts in a trial batch: a single text would not show faults that mix texts up."""
STEPS = 2
"""Tokens decoded one by one from the state of an earlier pass."""
SHARE = {torch.float32: 2**-5, torch.float16: 2**-2, torch.bfloat16: 2**-2}
"""Largest distance between two passes, as a share of the distance between two texts. Rounding in
bfloat16 gives 0.01 to 0.05 (random targets of 24 layers, dense and of 64 experts); a cache that
mixes texts up or loses positions gives 0.4 and more."""
MIN_DISTANCE = {torch.float32: 0.01, torch.float16: 0.1, torch.bfloat16: 0.1}
"""Smallest distance assumed between two texts, in total variation: a target that predicts much
the same for any text must not fail for rounding."""

T = TypeVar("T")


CUT = "cache"
OWN = "own state"
FULL_PASSES = "whole passes"
"""State that decoding continues from: a cache of keys and values cut back to the first mismatch,
the cache or state of the model itself, or nothing (a whole pass for each token)."""


@dataclass(frozen=True)
class Decoding:
    """How a target is decoded, and why."""

    shape: CacheShape | None
    """Cache of keys and values that can be cut back to any earlier token; None if it cannot."""
    reuses_state: bool
    """True if the model's own state, passed back to it, replaces all earlier tokens."""
    reason: str
    aligns: bool = False
    """True if windows of different lengths can share the cache and are decoded together."""

    @property
    def path(self) -> str:
        """CUT (our own cache), OWN (the model's state) or FULL_PASSES (no state)."""
        if self.shape is not None:
            return CUT
        return OWN if self.reuses_state else FULL_PASSES


class Trial(NamedTuple):
    """Result of one way to continue from an earlier pass."""

    logits: Tensor
    """(B,STEPS+1,X)."""
    shape: CacheShape | None
    """Shape of the cache, if it was cut back."""


@torch.inference_mode()
def choose_decoding(checkpoint: Checkpoint, tokens: int) -> Decoding:
    """Return the fastest decoding that agrees with a pass over the whole text.

    tokens: length of the text to continue. Raises RunError if memory does not hold one text.
    """

    def choose(rows: int) -> Decoding:
        vectors = checkpoint.embed(random_ids(checkpoint, rows, tokens + STEPS))
        return _first_that_agrees(checkpoint, vectors)

    return _with_memory(checkpoint, choose)


def _with_memory(checkpoint: Checkpoint, attempt: Callable[[int], T]) -> T:
    """Run the attempt with ROWS texts, or with one if memory does not hold more."""
    for rows in (ROWS, 1):
        try:
            return attempt(rows)
        except FAILED_ALLOCATION as error:
            if not is_out_of_memory(error):
                raise
            release_memory(error)
    raise RunError(
        f"{checkpoint.name}: no memory left on {checkpoint.device} for a single text; use a "
        "larger --device, or --dtype bfloat16"
    )


def _first_that_agrees(checkpoint: Checkpoint, vectors: Tensor) -> Decoding:
    """Return the first way that agrees with one pass over the vectors (B,T,D) at their end."""
    whole, _ = _logits(checkpoint, STEPS + 1, vectors, use_cache=False)  # (B,STEPS+1,X)
    near = tolerance(whole, checkpoint.dtype)
    reason = "keys and values, cut back to the first mismatch"
    for way, name in ((_cut_back, "a cache that was cut back"), (_own_state, "its own cache")):
        try:
            trial = way(checkpoint, vectors)
        except CannotContinue as obstacle:
            reason = str(obstacle)
        except FAILURES as error:
            if is_out_of_memory(error):
                raise
            reason = f"it fails with {name}: {brief(error)}"
        else:
            if agree(trial.logits, whole, near):
                aligns = trial.shape is not None and _aligns(checkpoint, vectors, trial.shape, near)
                return Decoding(trial.shape, reuses_state=True, reason=reason, aligns=aligns)
            reason = f"{name} gives other logits than a whole pass"
    return Decoding(None, reuses_state=False, reason=f"slow, one for each token: {reason}")


def _cut_back(checkpoint: Checkpoint, vectors: Tensor) -> Trial:
    """Decode the last vectors from a cache of all vectors (B,T,D), cut back before them."""
    shape = probe_cache(checkpoint)
    rows, total = vectors.shape[:2]
    cache = RoomyCache(shape.layers, rows, total)
    cache.focus(slice(0, rows), 0)
    arguments = with_cache(checkpoint, cache)
    steps = [_logits(checkpoint, STEPS + 1, vectors, **arguments)[0][:, :1]]
    for place in range(total - STEPS, total):
        cache.focus(slice(0, rows), place)
        steps.append(_logits(checkpoint, 1, vectors[:, place : place + 1], **arguments)[0])
    return Trial(torch.cat(steps, dim=1), shape)


def _aligns(checkpoint: Checkpoint, vectors: Tensor, shape: CacheShape, near: float) -> bool:
    """Return True if texts of two lengths, aligned in a cache, give the logits of each alone.

    vectors: (B,T,D). The second text has a single token before the steps: from some length on,
    positions may be scaled by the longest text of a batch.
    """
    rows, total = vectors.shape[:2]
    if rows < 2 or not {"attention_mask", "position_ids"} <= accepted_arguments(checkpoint):
        return False
    known = torch.full((rows,), total - STEPS, device=vectors.device)
    known[1:] = 1
    texts = Alignment(total - STEPS, total - STEPS - known)
    cache = RoomyCache(shape.layers, rows, total)
    cache.focus(slice(0, rows), 0)
    arguments = with_cache(checkpoint, cache)
    _logits(checkpoint, 1, vectors, **arguments)
    cache.reorder(torch.arange(rows, device=vectors.device), texts.shift)
    try:
        for step in range(STEPS):
            place = texts.length + step
            cache.focus(slice(0, rows), place)
            token = vectors.take_along_dim((known + step)[:, None, None], dim=1)
            aligned = texts.step_arguments(slice(0, rows), place)
            logits, _ = _logits(checkpoint, 1, token, **arguments, **aligned)
            for row, length in enumerate((known + step + 1).tolist()):
                text = vectors[row : row + 1, :length]
                alone, _ = _logits(checkpoint, 1, text, use_cache=False)
                if not agree(logits[row : row + 1], alone, near):
                    return False
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        return False
    return True


def _own_state(checkpoint: Checkpoint, vectors: Tensor) -> Trial:
    """Decode the last vectors (B,T,D) from the target's own state, passed back to it."""
    total = vectors.shape[1]
    logits, output = _logits(checkpoint, 1, vectors[:, : total - STEPS], use_cache=True)
    steps = [logits]
    for place in range(total - STEPS, total):
        arguments = grow_model_cache(checkpoint, output, place)
        logits, output = _logits(checkpoint, 1, vectors[:, place : place + 1], **arguments)
        steps.append(logits)
    return Trial(torch.cat(steps, dim=1), None)


@torch.inference_mode()
def check_causal(checkpoint: Checkpoint, context: int, suffix: int) -> None:
    """Check that one pass over a window agrees with greedy decoding.

    context: tokens before the suffix, including soft prompt and BOS; suffix: S. Some targets are
    causal only up to a length: sparse attention that selects the tokens it attends to, or
    positions scaled by the length of the text.

    Raises:
        TargetError: it does not agree; the message names the model's class and the fault.
        RunError: memory does not hold one text.
    """
    try:
        with quiet_transformers():
            fault = _with_memory(
                checkpoint, lambda rows: _find_fault(checkpoint, (context, suffix), rows)
            )
    except FAILURES as error:
        fault = f"it refuses inputs_embeds ({brief(error)})"
    if fault:
        raise unfit(checkpoint, fault)


def _find_fault(checkpoint: Checkpoint, lengths: tuple[int, int], rows: int) -> str | None:
    """Return the first fault with texts of these lengths (context, suffix), or None."""
    context, suffix = lengths
    total = context + suffix - 1
    vectors = checkpoint.embed(random_ids(checkpoint, rows, total))
    batched, _ = _logits(checkpoint, suffix, vectors, use_cache=False)
    if not torch.isfinite(batched.amax(dim=-1)).all():
        return None  # verification reports it with the remedy
    near = tolerance(batched, checkpoint.dtype)
    first, batched = vectors[:1], batched[:1]  # (1,T,D), (1,S,X)
    alone, _ = _logits(checkpoint, 1, first, use_cache=False)
    if not agree(alone, batched[:, -1:], near):
        return "its logits for a text change with the other texts in the batch"
    for place in sorted({0, suffix // 2}):
        short, _ = _logits(checkpoint, 1, first[:, : context + place], use_cache=False)
        if not agree(short, batched[:, place : place + 1], near):
            return (
                f"in a text of {total} tokens, its logits at a token change with the tokens that "
                "follow; if it is a causal language model, use shorter windows (--prefix-tokens, "
                "--suffix-tokens)"
            )
    return None


def _logits(
    checkpoint: Checkpoint, count: int, vectors: Tensor, **state: Any
) -> tuple[Tensor, Any]:
    """Call :func:`last_logits` on a copy: some targets (CTRL) scale their inputs in place."""
    return last_logits(checkpoint, count, vectors.clone(), **state)


def tolerance(whole: Tensor, dtype: torch.dtype) -> float:
    """Return the distance below which two passes agree; whole: (B,T,X), logits of two texts.

    With a single text the distance between two is unknown; half of the maximum is assumed.
    """
    between = float(distance(whole[:1], whole[1:])) if len(whole) > 1 else 0.5
    return SHARE.get(dtype, 2**-2) * max(between, MIN_DISTANCE.get(dtype, 0.1))


def agree(first: Tensor, second: Tensor, near: float) -> bool:
    """True if two logits (B,T,X) give the same next-token distributions up to rounding."""
    return first.shape == second.shape and bool(distance(first, second) <= near)


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean total variation, in [0,1], of the next-token distributions of two logits (B,T,X).

    Distributions are compared because masked logits may be any negative number.
    """
    difference = first.float().softmax(dim=-1) - second.float().softmax(dim=-1)
    return difference.abs().sum(dim=-1).mean() / 2
