"""One pass of the target over [BOS; soft prompt; prefix; suffix], through ``inputs_embeds``.

Knows how inputs are put together and how the last logits are asked for. Knows nothing of where
soft prompts come from or what the logits are for.
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

    ids: (B,T), the first ``prefix`` of which the soft prompt is made from. E' is the target's
    embedding as the prompt adapts it.
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
    """Logits of the last ``count`` positions (B,count,X) as the model gives them, and its output.

    embedded: (B,T,D). The output head is applied to those positions only, where the
    architecture offers it; ``options`` go to the target's ``forward`` as they are.
    """
    if "logits_to_keep" in accepted_arguments(checkpoint):
        length = embedded.shape[1]
        # Positions by index come out in one piece, which the head's matrix product wants; a
        # slice, which a plain number would make, takes it 1.2 to 2 times as long on a CPU.
        kept = torch.arange(length - count, length, device=embedded.device)
        if checkpoint.is_spread:  # whose head may be on another device than an index here
            options["logits_to_keep"] = count
        else:
            options["logits_to_keep"] = kept if count < length else 0
    output = checkpoint.model(inputs_embeds=embedded, **options)
    return output.logits[:, -count:], output


def accepted_arguments(checkpoint: Checkpoint) -> frozenset[str]:
    """Names that the target's ``forward`` takes (an adapter's wrapper is looked through)."""
    return _parameters(type(base_of(checkpoint.model)))  # type: ignore[arg-type]  # classes do hash


@lru_cache
def _parameters(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)
