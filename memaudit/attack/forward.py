"""One pass of the target over [BOS; soft prompt; prefix; suffix], through ``inputs_embeds``.

Knows how to build inputs and how to request the last logits. Knows nothing of where soft prompts
come from or what the logits are for.

A prefix shorter than P has PADDING before it in the ids. The inputs of a pass have it at their end
instead, where no token of a causal model sees it: no mask is needed, and every position counts
from the window's own start.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from memaudit.attack.prompts import SoftPrompt
from memaudit.data.windows import PADDING
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.placement import base_of


def build_inputs(checkpoint: Checkpoint, prompt: SoftPrompt, ids: Tensor, prefix: int) -> Tensor:
    """[BOS if used; o; E'(ids)] as (B, [1+][V+]T, D), in the target's dtype.

    ids: (B,T); the soft prompt o is made from the first ``prefix`` of them. E' is the target's
    embedding, adapted by the prompt. Padding before the ids is moved behind them; T counts only
    what the longest window of the batch needs.
    """
    embedded = prompt.adapt(checkpoint.embed(padding_last(ids)))
    parts = [embedded]
    vectors = prompt(ids[:, :prefix])
    if vectors is not None:
        parts.insert(0, vectors.to(embedded.dtype))
    if checkpoint.bos_id is not None:
        bos = torch.full((len(ids), 1), checkpoint.bos_id, dtype=torch.long, device=ids.device)
        parts.insert(0, checkpoint.embed(bos))
    return torch.cat(parts, dim=1)


def padding_of(ids: Tensor) -> Tensor:
    """Count the padding before each window's ids (B,T): (B,)."""
    return (ids == PADDING).sum(dim=1)


def padding_last(ids: Tensor) -> Tensor:
    """Move padding from the start of ids (B,T) to their end, and drop what all rows have."""
    padding = padding_of(ids)
    least, most = (int(end) for end in padding.aminmax())
    if not most:
        return ids
    places = torch.arange(ids.shape[1] - least, device=ids.device) + padding[:, None]
    moved = ids.gather(1, places.clamp_max(ids.shape[1] - 1))
    return moved.masked_fill_(places >= ids.shape[1], 0)  # any token: none sees it


def window_logits(
    checkpoint: Checkpoint,
    prompt: SoftPrompt,
    ids: Tensor,
    prefix: int,
    count: int,
    **options: Any,
) -> tuple[Tensor, Any]:
    """Return the logits that predict the last ``count`` ids of each window, and the output.

    ids: (B,P+S), of which the last is never an input. The logits are (B,count,X), unconverted;
    those that would predict padding mean nothing. ``options`` are passed to the target's
    ``forward``.
    """
    inputs = build_inputs(checkpoint, prompt, ids[:, :-1], prefix)
    padding = padding_of(ids)
    surplus = padding - padding.min()  # (B,) inputs after the window's last
    needed = min(count + int(surplus.max()), inputs.shape[1])
    logits, output = last_logits(checkpoint, needed, inputs, **options)
    if surplus.any():
        places = torch.arange(needed - count, needed, device=ids.device) - surplus[:, None]
        rows = torch.arange(len(places), device=logits.device)[:, None]
        logits = logits[rows, places.clamp_min_(0).to(logits.device)]  # copies whole rows of X
    return logits, output


def last_logits(
    checkpoint: Checkpoint, count: int, embedded: Tensor, **options: Any
) -> tuple[Tensor, Any]:
    """Return the logits of the last ``count`` positions (B,count,X), unconverted, and the output.

    embedded: (B,T,D). The output head is applied to those positions only, if the architecture
    supports it; ``options`` are passed to the target's ``forward``.
    """
    if "logits_to_keep" in accepted_arguments(checkpoint):
        length = embedded.shape[1]
        # Indexed positions are contiguous, as the head's matrix product needs; the slice that a
        # plain number makes takes it 1.2 to 2 times as long on a CPU.
        positions = torch.arange(length - count, length, device=embedded.device)
        if checkpoint.is_spread:  # the head may be on another device than an index made here
            options["logits_to_keep"] = count
        else:
            options["logits_to_keep"] = positions if count < length else 0
    output = checkpoint.model(inputs_embeds=embedded, **options)
    return output.logits[:, -count:], output


def accepted_arguments(checkpoint: Checkpoint) -> frozenset[str]:
    """Argument names of the target's ``forward``, inside an adapter's wrapper."""
    return _parameters(type(base_of(checkpoint.model)))  # type: ignore[arg-type]  # classes do hash


@lru_cache
def _parameters(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)
