"""Greedy decoding of windows from their first mismatch on, one token at a time for all together.

Knows the target, a soft prompt and what verification left: the tokens said so far and, where it
can be cut, a cache of them. Knows nothing of batches or memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memaudit.attack.decoding_cache import RoomyCache, grow_model_cache, with_cache
from memaudit.attack.finite import next_token, require_finite
from memaudit.attack.forward import build_inputs, last_logits
from memaudit.attack.prompts import SoftPrompt
from memaudit.target.checkpoint import Checkpoint


def decode(
    checkpoint: Checkpoint, prompt: SoftPrompt, cache: RoomyCache, said: Tensor, matched: Tensor
) -> None:
    """Complete ``said`` (B,S) in place; rows sorted by ``matched`` (B,), as in the cache.

    A window joins at its first mismatch: until then the cache holds what the target said.
    """
    suffix = said.shape[1]
    context = cache.capacity - (suffix - 1)  # [BOS], V and P
    finite = torch.ones_like(matched, dtype=torch.bool)
    joined = torch.bincount(matched, minlength=suffix).cumsum(0).tolist()
    for position in range(int(matched[0]) + 1, suffix):
        rows = slice(0, joined[position - 1])  # those with a mismatch before the position
        cache.focus(rows, context + position - 1)
        token = _embed(checkpoint, prompt, said[rows, position - 1 : position])
        logits, _ = last_logits(checkpoint, 1, token, **with_cache(checkpoint, cache))
        said[rows, position], numbers = next_token(logits)
        finite[rows] &= numbers
    require_finite(checkpoint, finite)


def decode_from_prefix(
    checkpoint: Checkpoint,
    prompt: SoftPrompt,
    ids: Tensor,
    said: Tensor,
    matched: Tensor,
    batch_size: int,
) -> None:
    """The same for a target whose state cannot be cut back: fill it anew, then go on.

    ids: (B,P+S), of which the prefix and what the target says alike are read.
    """
    prefix_tokens = ids.shape[1] - said.shape[1]
    finite = torch.ones_like(matched, dtype=torch.bool)
    left = torch.nonzero(matched < said.shape[1]).flatten()
    for start in range(0, len(left), batch_size):
        rows = left[start : start + batch_size]
        kept = int(matched[rows[0]])
        context = ids[rows, : prefix_tokens + kept]
        inputs = build_inputs(checkpoint, prompt, context, prefix_tokens)
        _, output = last_logits(checkpoint, 1, inputs, use_cache=True)
        for position in range(kept + 1, said.shape[1]):
            token = _embed(checkpoint, prompt, said[rows, position - 1 : position])
            place = inputs.shape[1] + position - (kept + 1)
            state = grow_model_cache(checkpoint, output, place)
            logits, output = last_logits(checkpoint, 1, token, **state)
            token, numbers = next_token(logits)
            free = matched[rows] < position
            said[rows, position] = torch.where(free, token, said[rows, position])
            finite[rows] &= numbers
    require_finite(checkpoint, finite)


def decode_anew(
    checkpoint: Checkpoint,
    prompt: SoftPrompt,
    ids: Tensor,
    said: Tensor,
    matched: Tensor,
    batch_size: int,
) -> None:
    """The same for a target that keeps nothing it could go on from: a whole pass for each token.

    ids: (B,P+S), of which the prefix is read.
    """
    suffix = said.shape[1]
    prefix = ids[:, : ids.shape[1] - suffix]
    finite = torch.ones_like(matched, dtype=torch.bool)
    for position in range(int(matched[0]) + 1, suffix):
        left = torch.nonzero(matched < position).flatten()
        for rows in torch.split(left, batch_size):
            known = torch.cat([prefix[rows], said[rows, :position]], dim=1)
            inputs = build_inputs(checkpoint, prompt, known, prefix.shape[1])
            logits, _ = last_logits(checkpoint, 1, inputs, use_cache=False)
            said[rows, position], numbers = next_token(logits)
            finite[rows] &= numbers
    require_finite(checkpoint, finite)


def _embed(checkpoint: Checkpoint, prompt: SoftPrompt, ids: Tensor) -> Tensor:
    return prompt.adapt(checkpoint.embed(ids))
