"""One pass of the target over [BOS; soft prompt; prefix; suffix], through ``inputs_embeds``.

Knows how to build inputs and how to request the last logits. Knows nothing of where soft prompts
come from or what the logits are for.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from memaudit.attack.prompts import SoftPrompt
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.placement import base_of


def build_inputs(checkpoint: Checkpoint, prompt: SoftPrompt, ids: Tensor, prefix: int) -> Tensor:
    """[BOS if used; o; E'(ids)] as (B, [1+][V+]T, D), in the target's dtype.

    ids: (B,T); the soft prompt o is made from the first ``prefix`` of them. E' is the target's
    embedding, adapted by the prompt.
    """
    embedded = prompt.adapt(checkpoint.embed(ids))
    parts = [embedded]
    vectors = prompt(ids[:, :prefix])
    if vectors is not None:
        parts.insert(0, vectors.to(embedded.dtype))
    if checkpoint.bos_id is not None:
        bos = torch.full((len(ids), 1), checkpoint.bos_id, dtype=torch.long, device=ids.device)
        parts.insert(0, checkpoint.embed(bos))
    return torch.cat(parts, dim=1)


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
