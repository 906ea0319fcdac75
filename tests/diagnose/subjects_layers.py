"""Models and subjects made by hand, for tests of what looks inside a model."""

from __future__ import annotations

from typing import Any

import torch
from architectures import Architecture, make_model
from conftest import build_tokenizer

from memaudit.target.checkpoint import Checkpoint


def checkpoint_of(model: Any, *, bos_id: int | None = None, name: str = "tiny") -> Checkpoint:
    """A frozen target around a model."""
    model.eval().requires_grad_(False)
    embedding = model.get_input_embeddings().weight
    return Checkpoint(
        model=model,
        tokenizer=build_tokenizer(),
        name=name,
        device=embedding.device,
        dtype=embedding.dtype,
        bos_id=bos_id,
    )


def matrix_checkpoint(architecture: Architecture) -> Checkpoint:
    """Of the matrix; one pass is made, for RWKV halves weights in its first."""
    import pytest

    model = make_model(architecture)
    if model is None:
        pytest.skip(f"this transformers has no {architecture.config}")
    checkpoint = checkpoint_of(model, bos_id=0 if architecture.adds_bos else None)
    logits(checkpoint, ids(2, 5))
    return checkpoint


def ids(rows: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """(rows,tokens) random ids."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(3, 300, (rows, tokens), generator=rng)


@torch.no_grad()
def logits(checkpoint: Checkpoint, tokens: torch.Tensor) -> torch.Tensor:
    """(B,T,X) of the model as it stands."""
    embedded = checkpoint.embed(tokens.to(checkpoint.device))
    found: torch.Tensor = checkpoint.model(
        inputs_embeds=embedded.clone(), use_cache=False
    ).logits.float()
    return found
