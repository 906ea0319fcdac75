"""The ladder of soft prompts, behind one small protocol, and their initialisation.

Knows how a prefix becomes a soft prompt, how a fitted prompt changes the embeddings of the tokens
after it, and the target's embedding. Knows nothing of losses, optimizers or decoding.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from memaudit.attack.generator import Embed, Generator, TrainedRows, map_prefix
from memaudit.config.settings import ConstantSettings, DynamicSettings, TuningSettings
from memaudit.data.windows import PADDING
from memaudit.target.checkpoint import Checkpoint


class SoftPrompt(Protocol):
    """Interface of an attack for extraction: (B,P) prefix ids -> (B,V,D) vectors, or None."""

    def __call__(self, prefix_ids: Tensor) -> Tensor | None:
        """Return the vectors placed before the prefix; None for no soft prompt."""

    def adapt(self, embedded: Tensor) -> Tensor:
        """Return the target's inputs for the token embeddings (B,T,D) of the window."""


class _UnchangedTokens:
    """A prompt that does not change the embeddings of the tokens."""

    def adapt(self, embedded: Tensor) -> Tensor:
        """(B,T,D), unchanged."""
        return embedded


class NoPrompt(_UnchangedTokens):
    """``none``: the prefix alone, the field's standard measure of extraction."""

    def __call__(self, prefix_ids: Tensor) -> None:
        """Return None."""


class HardPrompt(_UnchangedTokens):
    """``dynamic-hard``: the embedded m(prefix), which equals the untrained generator."""

    def __init__(self, embed: Embed, num_virtual_tokens: int) -> None:
        self._embed = embed
        self.num_virtual_tokens = num_virtual_tokens

    def __call__(self, prefix_ids: Tensor) -> Tensor:
        """(B,P) -> (B,V,D)."""
        return self._embed(map_prefix(prefix_ids, self.num_virtual_tokens))


class LowRankChange(nn.Module):
    """x -> x + xAB for the embedding x of every token, with B zero before the first step.

    One linear map for all tokens and positions: LoRA's form (Hu et al., ICLR 2022, section 4.1)
    applied to embeddings. DePT (Shi & Lipani, ICLR 2024) changes embeddings by position instead.
    """

    def __init__(self, width: int, rank: int, rng: torch.Generator) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.empty(width, rank))  # A
        self.back = nn.Parameter(torch.zeros(rank, width))  # B
        nn.init.normal_(self.into, std=width**-0.5, generator=rng)

    def forward(self, embedded: Tensor) -> Tensor:
        """(B,T,D) -> (B,T,D), in the dtype of the input."""
        exact = embedded.float()
        moved: Tensor = exact + exact @ self.into @ self.back
        return moved.to(embedded.dtype)


class FittedPrompt(nn.Module):
    """A trainable soft prompt, with an optional low-rank change of the token embeddings."""

    def __init__(self, settings: TuningSettings, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        rank = settings.low_rank
        self.change = LowRankChange(width, rank, rng) if rank else None

    def adapt(self, embedded: Tensor) -> Tensor:
        """(B,T,D) -> (B,T,D): apply the low-rank change, if any."""
        return embedded if self.change is None else self.change(embedded)

    def parameter_groups(self) -> list[dict[str, object]]:
        """Return AdamW parameter groups, each with its own learning rate."""
        if self.change is None:
            return []
        rate = self.settings.learning_rate_low_rank
        return [{"params": list(self.change.parameters()), "lr": rate}]


class ConstantPrompt(FittedPrompt):
    """``constant``: V free vectors, the same for every prefix (Ozdayi et al., ACL 2023)."""

    def __init__(
        self, settings: ConstantSettings, first_vectors: Tensor, rng: torch.Generator
    ) -> None:
        super().__init__(settings, first_vectors.shape[1], rng)
        self.vectors = nn.Parameter(first_vectors.detach().float().clone())  # (V,D)

    def forward(self, prefix_ids: Tensor) -> Tensor:
        """(B,P) -> (B,V,D) float32."""
        return self.vectors.expand(len(prefix_ids), -1, -1)

    def parameter_groups(self) -> list[dict[str, object]]:
        """The vectors, and the low-rank change."""
        vectors = {"params": [self.vectors], "lr": self.settings.learning_rate}
        return [vectors, *super().parameter_groups()]


class DynamicPrompt(FittedPrompt):
    """``dynamic``: o = g(m(prefix)) (Wang et al., EMNLP 2024)."""

    settings: DynamicSettings
    generator: Generator

    def __init__(
        self, settings: DynamicSettings, generator: Generator, rng: torch.Generator
    ) -> None:
        super().__init__(settings, generator.width, rng)
        self.generator = generator

    def forward(self, prefix_ids: Tensor) -> Tensor:
        """(B,P) -> (B,V,D) float32."""
        vectors: Tensor = self.generator(prefix_ids)
        return vectors

    def parameter_groups(self) -> list[dict[str, object]]:
        """Low-rank change, blocks, embedding rows and free vectors, each at its own rate."""
        settings, generator = self.settings, self.generator
        blocks = [*generator.blocks.parameters(), generator.positions]
        groups = [*super().parameter_groups(), {"params": blocks, "lr": settings.learning_rate}]
        if generator.rows is not None:
            rows = list(generator.rows.parameters())
            groups.append({"params": rows, "lr": settings.learning_rate_embedding})
        if generator.queries is not None:
            queries = [generator.queries]
            groups.append({"params": queries, "lr": settings.learning_rate_queries})
        return groups


def trained_rows(embed: Embed, fitted_prefix_ids: Tensor, vocabulary: int) -> TrainedRows:
    """Make the embedding rows trainable that occur in the fitted prefixes (ids of any shape)."""
    ids = torch.unique(fitted_prefix_ids)
    return TrainedRows(embed, ids[ids != PADDING], vocabulary)


def untrained_prompt(
    checkpoint: Checkpoint,
    settings: TuningSettings,
    prefix_ids: NDArray[np.int32],
    rng: np.random.Generator,
    *,
    start: torch.Tensor | None = None,
) -> FittedPrompt:
    """Make the untrained prompt of these settings, on the target's device.

    prefix_ids: (N,P) of the windows it will be fitted on, for the embedding rows that occur.
    start: (V,D) initial free vectors of ``dynamic``; rows of the vocabulary if None.
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
    """Sample ``count`` rows of the target's embedding: (count,D) float32.

    Initial free vectors (Ozdayi et al. 2023: initialised from the vocabulary).
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
