"""Soft prompts as they are before their first step.

Knows what a target gives to start from: its embedding, and its scale. Knows nothing of training.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from memaudit.attack.generator import Generator, TrainedRows
from memaudit.attack.prompts import ConstantPrompt, DynamicPrompt, FittedPrompt, trained_rows
from memaudit.config.settings import ConstantSettings, DynamicSettings, TuningSettings
from memaudit.target.checkpoint import Checkpoint


def untrained_prompt(
    checkpoint: Checkpoint,
    settings: TuningSettings,
    prefix_ids: NDArray[np.int32],
    rng: np.random.Generator,
    *,
    start: torch.Tensor | None = None,
) -> FittedPrompt:
    """The prompt that settings of ``constant`` or ``dynamic`` describe, on the target's device.

    prefix_ids: (N,P) of the windows it will be fitted on, for the embedding rows that occur.
    start: (V,D) where the free vectors of ``dynamic`` start; rows of the vocabulary without.
    """
    first = first_vectors(checkpoint, settings.num_virtual_tokens, rng)
    if isinstance(settings, ConstantSettings):
        return ConstantPrompt(settings, first, _torch_rng(rng)).to(checkpoint.device)
    assert isinstance(settings, DynamicSettings)
    generator = Generator(
        checkpoint.embed,
        settings,
        prefix_tokens=prefix_ids.shape[1],
        first_vectors=first if start is None else start,
        scale=float(first.std()),
        rows=_rows(checkpoint, prefix_ids) if settings.embedding == "trained" else None,
        rng=_torch_rng(rng),
    )
    return DynamicPrompt(settings, generator, _torch_rng(rng)).to(checkpoint.device)


def first_vectors(checkpoint: Checkpoint, count: int, rng: np.random.Generator) -> torch.Tensor:
    """``count`` rows of the target's embedding, drawn at random: (count,D) float32.

    Where free vectors start (Ozdayi et al. 2023: initialised from the vocabulary).
    """
    rows = rng.choice(checkpoint.vocabulary, size=count, replace=count > checkpoint.vocabulary)
    ids = torch.as_tensor(rows[None], dtype=torch.long, device=checkpoint.device)
    with torch.no_grad():
        return checkpoint.embed(ids)[0].float().cpu()


def _rows(checkpoint: Checkpoint, prefix_ids: NDArray[np.int32]) -> TrainedRows:
    ids = torch.as_tensor(prefix_ids, dtype=torch.long, device=checkpoint.device)
    return trained_rows(checkpoint.embed, ids, checkpoint.vocabulary)


def _torch_rng(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**62)))
