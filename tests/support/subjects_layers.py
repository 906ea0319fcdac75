"""Models and subjects made by hand, for tests of what looks inside a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from architectures import Architecture, make_model
from conftest import build_tokenizer

from memaudit.config.settings import ScanConfig
from memaudit.diagnose.disclosure import Disclosure
from memaudit.diagnose.subject import Part, Subject
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


def subject_of(
    checkpoint: Checkpoint,
    data: torch.Tensor,
    extracted: Sequence[bool],
    controls: torch.Tensor | None = None,
    *,
    prefix: int,
    hidden: Sequence[bool] | None = None,
    clusters: Sequence[int] | None = None,
) -> Subject:
    """A run as if one had been made: ids (N,P+S), and what it says of them."""
    config = ScanConfig.model_validate(
        {
            "model": "tiny",
            "data": "data.jsonl",
            "windows": {"prefix_tokens": prefix, "suffix_tokens": data.shape[1] - prefix},
            "scores": {"bootstrap": 200},
        }
    )
    rows = {
        "cluster": list(range(len(data))) if clusters is None else list(clusters),
        "exact_none": np.asarray(extracted, dtype=float),
    }
    attacks: tuple[str, ...] = ("none",)
    if hidden is not None:
        rows["exact_constant"] = np.asarray(hidden, dtype=float)
        attacks = ("none", "constant")
    other = None
    if controls is not None:
        never = {name: np.zeros(len(controls)) for name in rows if name != "cluster"}
        numbers = {"cluster": [10_000 + number for number in range(len(controls))]}
        other = Part(controls.numpy().astype(np.int32), pd.DataFrame(numbers | never), attacks)
    return Subject(
        run=cast(Any, None),
        config=config,
        checkpoint=checkpoint,
        data=Part(data.numpy().astype(np.int32), pd.DataFrame(rows), attacks),
        controls=other,
        batch_size=64,
        disclosure=Disclosure(reveal=True),
    )


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """A copy."""
    return {name: value.clone() for name, value in checkpoint.model.state_dict().items()}


def assert_same_weights(checkpoint: Checkpoint, before: dict[str, torch.Tensor]) -> None:
    """Equal to the last bit."""
    after = checkpoint.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def hooks(checkpoint: Checkpoint) -> int:
    """That are there; some models have their own."""
    modules = checkpoint.model.modules()
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in modules)
