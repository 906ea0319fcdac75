"""Whether a target says the same in one pass as token by token, and what it can go on from.

One pass over a window decides whether it is extracted, and decoding goes on from what an earlier
pass left behind. Both are right only where a target says of a text what it says of it alone and
cut short, which is tried here before hours are spent. Knows the target and its caches; runs it on
random tokens. Knows nothing of prompts, or of windows but their length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from memaudit.attack.decoding_cache import CacheShape, RoomyCache, grow_model_cache, probe_cache
from memaudit.attack.forward import last_logits
from memaudit.attack.memory import is_out_of_memory
from memaudit.errors import RunError, TargetError
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.failures import FAILURES, brief, quiet_transformers
from memaudit.target.softprompt_check import architecture_of, random_ids

ROWS = 2
"""Texts tried together: with a single one, faults that mix texts up would not show."""
STEPS = 2
"""Tokens fed one by one to what an earlier pass left."""
FARTHEST = {torch.float32: 2**-7, torch.float16: 0.3, torch.bfloat16: 0.3}
"""Total variation in [0,1] between two next-token distributions above which two passes disagree.
In the half types rounding may send a token to another expert of a mixture; what goes wrong here
(another context, other positions) gives another distribution altogether."""


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
    try:
        vectors = checkpoint.embed(random_ids(checkpoint, ROWS, tokens + STEPS))
        whole, _ = _logits(checkpoint, STEPS + 1, vectors, use_cache=False)
        shape = _try_cut(checkpoint, vectors, whole)
        return Decoding(shape, shape is not None or _try_own(checkpoint, vectors, whole))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"{checkpoint.name}: no memory left on {checkpoint.device} for {ROWS} texts of "
            f"{tokens + STEPS} tokens; use a larger --device, or --dtype bfloat16"
        ) from error


def _try_cut(checkpoint: Checkpoint, vectors: Tensor, whole: Tensor) -> CacheShape | None:
    """The shape of the cache where cutting it back gives the logits (B,STEPS+1,X) of ``whole``."""
    tokens = vectors.shape[1] - STEPS
    try:
        shape = probe_cache(checkpoint)
        if shape is None:
            return None
        cache = RoomyCache(shape.layers, len(vectors), vectors.shape[1])
        cache.focus(slice(0, len(vectors)), 0)
        state = {"use_cache": True, "past_key_values": cache}
        said = [_logits(checkpoint, STEPS + 1, vectors, **state)[0][:, :1]]
        for place in range(tokens, vectors.shape[1]):
            cache.focus(slice(0, len(vectors)), place)
            said.append(_logits(checkpoint, 1, vectors[:, place : place + 1], **state)[0])
    except FAILURES as error:
        _pass_on_lack_of_memory(error)
        return None
    return shape if agree(torch.cat(said, dim=1), whole, checkpoint.dtype) else None


def _try_own(checkpoint: Checkpoint, vectors: Tensor, whole: Tensor) -> bool:
    """Whether the target's own state, handed back, gives the logits (B,STEPS+1,X) of ``whole``."""
    tokens = vectors.shape[1] - STEPS
    try:
        logits, output = _logits(checkpoint, 1, vectors[:, :tokens], use_cache=True)
        said = [logits]
        for place in range(tokens, vectors.shape[1]):
            state = grow_model_cache(checkpoint, output, place)
            if not state:
                return False
            token = vectors[:, place : place + 1]
            logits, output = _logits(checkpoint, 1, token, use_cache=True, **state)
            said.append(logits)
    except FAILURES as error:
        _pass_on_lack_of_memory(error)
        return False
    return agree(torch.cat(said, dim=1), whole, checkpoint.dtype)


def _pass_on_lack_of_memory(error: BaseException) -> None:
    """A way that a target refuses is not its way; that there is no memory says nothing of it."""
    if is_out_of_memory(error):
        raise error


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
            fault = _find_fault(checkpoint, context, suffix)
    except FAILURES as error:
        if is_out_of_memory(error):
            raise RunError(
                f"{checkpoint.name}: no memory left on {checkpoint.device} for {ROWS} windows; "
                "use a larger --device, or --dtype bfloat16"
            ) from error
        fault = f"it refuses inputs_embeds ({brief(error)})"
    if fault:
        raise TargetError(
            f"{checkpoint.name}: {architecture_of(checkpoint)} cannot be audited: {fault}"
        )


def _find_fault(checkpoint: Checkpoint, context: int, suffix: int) -> str | None:
    """The first thing that is wrong, or None."""
    total = context + suffix - 1
    vectors = checkpoint.embed(random_ids(checkpoint, ROWS, total))
    together, _ = _logits(checkpoint, suffix, vectors, use_cache=False)
    one, together = vectors[:1], together[:1]  # (1,T,D), (1,S,X)
    alone, _ = _logits(checkpoint, 1, one, use_cache=False)
    if not torch.isfinite(together.amax(dim=-1)).all():
        return None  # verification says so, with the remedy
    if not agree(alone, together[:, -1:], checkpoint.dtype):
        return "what it says of a text changes with the texts beside it in a batch"
    for place in sorted({0, suffix // 2}):
        short, _ = _logits(checkpoint, 1, one[:, : context + place], use_cache=False)
        if not agree(short, together[:, place : place + 1], checkpoint.dtype):
            return (
                f"in a text of {total} tokens, what it says of a token changes with those that "
                "follow; use shorter windows (--prefix-tokens, --suffix-tokens)"
            )
    return None


def _logits(
    checkpoint: Checkpoint, count: int, vectors: Tensor, **state: Any
) -> tuple[Tensor, Any]:
    """As :func:`last_logits`, of a copy: some targets (CTRL) scale their inputs in place."""
    return last_logits(checkpoint, count, vectors.clone(), **state)


def agree(one: Tensor, two: Tensor, dtype: torch.dtype) -> bool:
    """Whether two logits (B,T,X) are of the same next-token distributions but for rounding.

    Distributions are compared, since logits that are masked off may be any negative number.
    """
    if one.shape != two.shape:
        return False
    apart = (one.float().softmax(dim=-1) - two.float().softmax(dim=-1)).abs().sum(dim=-1) / 2
    return bool((apart <= FARTHEST.get(dtype, 0.3)).all())
