"""The ladder of soft prompts, behind one small protocol.

Knows how prefixes become soft prompts, and how fitted ones are written and read again. Knows
nothing of losses, optimizers or decoding.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from memaudit.attack.generator import Embed, Generator, TrainedRows, map_prefix
from memaudit.config import ConstantSettings, DynamicSettings, TuningSettings


class SoftPrompt(Protocol):
    """What extraction needs of an attack: (B,P) prefix ids -> (B,V,D) vectors, or None."""

    def __call__(self, prefix_ids: Tensor) -> Tensor | None:
        """The vectors that stand before the prefix; None for no soft prompt at all."""


class NoPrompt:
    """``none``: the prefix alone, the standard baseline of the field."""

    def __call__(self, prefix_ids: Tensor) -> None:
        """Always None."""


class HardPrompt:
    """``dynamic-hard``: the embedded m(prefix), which is the generator before training."""

    def __init__(self, embed: Embed, num_virtual_tokens: int) -> None:
        self._embed = embed
        self.num_virtual_tokens = num_virtual_tokens

    def __call__(self, prefix_ids: Tensor) -> Tensor:
        """(B,P) -> (B,V,D)."""
        return self._embed(map_prefix(prefix_ids, self.num_virtual_tokens))


class FittedPrompt(nn.Module):
    """A soft prompt with trainable parameters."""

    settings: TuningSettings

    def parameter_groups(self) -> list[dict[str, object]]:
        """AdamW parameter groups, each with its own learning rate."""
        raise TypeError(f"{type(self).__name__} has to say what it trains")


class ConstantPrompt(FittedPrompt):
    """``constant``: V free vectors, the same for every prefix (Ozdayi et al., ACL 2023)."""

    def __init__(self, settings: ConstantSettings, first_vectors: Tensor) -> None:
        super().__init__()
        self.settings: ConstantSettings = settings
        self.vectors = nn.Parameter(first_vectors.detach().float().clone())  # (V,D)

    def forward(self, prefix_ids: Tensor) -> Tensor:
        """(B,P) -> (B,V,D) float32."""
        return self.vectors.expand(len(prefix_ids), -1, -1)

    def parameter_groups(self) -> list[dict[str, object]]:
        """One group: the vectors."""
        return [{"params": [self.vectors], "lr": self.settings.learning_rate}]


class DynamicPrompt(FittedPrompt):
    """``dynamic``: o = g(m(prefix)) (Wang et al., EMNLP 2024)."""

    def __init__(self, settings: DynamicSettings, generator: Generator) -> None:
        super().__init__()
        self.settings: DynamicSettings = settings
        self.generator = generator

    def forward(self, prefix_ids: Tensor) -> Tensor:
        """(B,P) -> (B,V,D) float32."""
        vectors: Tensor = self.generator(prefix_ids)
        return vectors

    def parameter_groups(self) -> list[dict[str, object]]:
        """Blocks, embedding rows and free vectors, each at its own learning rate."""
        settings, generator = self.settings, self.generator
        blocks = [*generator.blocks.parameters(), generator.positions]
        groups: list[dict[str, object]] = [{"params": blocks, "lr": settings.learning_rate}]
        if generator.rows is not None:
            rows = list(generator.rows.parameters())
            groups.append({"params": rows, "lr": settings.learning_rate_embedding})
        if generator.queries is not None:
            queries = [generator.queries]
            groups.append({"params": queries, "lr": settings.learning_rate_queries})
        return groups


def trained_rows(embed: Embed, fitted_prefix_ids: Tensor, vocabulary: int) -> TrainedRows:
    """Rows of the embedding that occur in the fitted prefixes (any shape of ids), trainable."""
    return TrainedRows(embed, torch.unique(fitted_prefix_ids), vocabulary)
