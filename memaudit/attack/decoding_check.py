"""Whether a target says the same in one pass as token by token, and what it can go on from.

One pass over a window decides whether it is extracted, and decoding goes on from what an earlier
pass left behind. Both are right only where a target says of a text what it says of it alone and
cut short, which is tried here before hours are spent. Knows the target and its caches; runs it on
random tokens. Knows nothing of prompts, or of windows but their length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from memaudit.attack.decoding_cache import CacheShape, RoomyCache, grow_model_cache, probe_cache
from memaudit.attack.forward import last_logits
from memaudit.attack.memory import let_go
from memaudit.errors import RunError, TargetError
from memaudit.out_of_memory import FAILED_ALLOCATION, is_out_of_memory
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


class Decoding(NamedTuple):
    """What decoding of a target can go on from."""

    shape: CacheShape | None
    """Of keys and values that can be cut back to any earlier token; None where they cannot."""
    carries: bool
    """Whether the state it keeps itself, handed back to it, stands for all that came before."""


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
    shape = _try(probe_cache, checkpoint)
    said = None if shape is None else _try(_said_after_cutting, checkpoint, vectors, shape)
    if said is not None and agree(said, whole, near):
        return Decoding(shape, carries=True)
    said = _try(_said_from_own_state, checkpoint, vectors)
    return Decoding(None, carries=said is not None and agree(said, whole, near))


def _try(way: Callable[..., T | None], *given: Any) -> T | None:
    """What comes of it; None where the target refuses, which a lack of memory does not say."""
    try:
        return way(*given)
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        return None


def _said_after_cutting(checkpoint: Checkpoint, vectors: Tensor, shape: CacheShape) -> Tensor:
    """(B,STEPS+1,X) with a cache of all vectors (B,T,D) that is cut back before the last ones."""
    rows, total = vectors.shape[:2]
    cache = RoomyCache(shape.layers, rows, total)
    cache.focus(slice(0, rows), 0)
    state = {"use_cache": True, "past_key_values": cache}
    said = [_logits(checkpoint, STEPS + 1, vectors, **state)[0][:, :1]]
    for place in range(total - STEPS, total):
        cache.focus(slice(0, rows), place)
        said.append(_logits(checkpoint, 1, vectors[:, place : place + 1], **state)[0])
    return torch.cat(said, dim=1)


def _said_from_own_state(checkpoint: Checkpoint, vectors: Tensor) -> Tensor | None:
    """(B,STEPS+1,X) with what the target keeps of (B,T,D), handed back; None where it does not."""
    total = vectors.shape[1]
    logits, output = _logits(checkpoint, 1, vectors[:, : total - STEPS], use_cache=True)
    said = [logits]
    for place in range(total - STEPS, total):
        state = grow_model_cache(checkpoint, output, place)
        if not state:
            return None
        token = vectors[:, place : place + 1]
        logits, output = _logits(checkpoint, 1, token, use_cache=True, **state)
        said.append(logits)
    return torch.cat(said, dim=1)


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
