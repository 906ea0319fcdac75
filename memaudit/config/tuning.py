"""How soft prompts are fitted: the settings of ``constant`` and ``dynamic``.

Knows what they share and what sets them apart. Knows nothing of how a prompt is made.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from memaudit.config.base import NotNegative, Positive, Settings

if TYPE_CHECKING:
    from typing import Self


class TuningSettings(Settings):
    """How a soft prompt is fitted. Shared by ``constant`` and ``dynamic``."""

    num_virtual_tokens: Positive = 50
    """V: length of the soft prompt."""
    epochs: Positive = 3
    min_steps: NotNegative = 200
    """Where the data are few, as many more epochs as it takes to make this many steps."""
    batch_size: Positive = 16
    """Windows per optimizer step; split into smaller passes where memory is short."""
    windows_per_pass: Positive | None = None
    """Windows at most in one of the passes that a step adds up, in their order: the share that a
    process can take of it. Where not given, 8 on a CPU, and on CUDA as few passes as there are
    processes."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    schedule: Literal["linear", "constant"] = "linear"
    """Learning rate after the warm-up: falling linearly to zero, or constant."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the learning rate rises linearly from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0 for no limit."""
    patience: Positive | None = 5
    """Stop after this many epochs without a better ``select``, and a quarter of ``min_steps``:
    where the data are few, ``min_steps`` would go over them again and again."""
    loss: Literal["aligned", "full"] = "aligned"
    """Cross-entropy over suffix tokens, or over prefix and suffix (the paper's ablation)."""
    focus: Annotated[float, Field(ge=0)] = 2.0
    """tau: each window's gradient is weighted by exp(-tau * its NLL); 0 weights all alike."""
    fit_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the fit windows that is trained on: those likeliest under ``none``."""
    low_rank: NotNegative = 0
    """Rank of a linear change, trained along, to the embeddings of the window's tokens; 0: none."""
    learning_rate_low_rank: Annotated[float, Field(gt=0)] = 1e-3
    """Of that change."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the passes that fit; the prompt is float32, and every verdict comes from the target's own
    dtype. ``auto``: bfloat16 where the processor multiplies in it, else float32."""

    def for_one_epoch(self) -> Self:
        """The same settings for a single pass over whatever is given, as for timing it."""
        return self.model_copy(update={"epochs": 1, "min_steps": 0, "patience": None})

    def trained_on(self, windows: int) -> int:
        """How many of so many fit windows are trained on."""
        return max(1, round(self.fit_share * windows))

    def epochs_for(self, windows: int) -> int:
        """Passes over so many fit windows: ``epochs``, or what ``min_steps`` takes."""
        steps = math.ceil(windows / self.batch_size)
        return max(self.epochs, math.ceil(self.min_steps / steps))

    def patience_for(self, windows: int) -> int | None:
        """Epochs without a better ``select`` after which a fit of so many windows stops."""
        steps = math.ceil(windows / self.batch_size)
        if self.patience is None:
            return None
        return max(self.patience, math.ceil(self.min_steps / 4 / steps))


class ConstantSettings(TuningSettings):
    """``constant``: V free vectors (Ozdayi et al., ACL 2023)."""


class DynamicSettings(TuningSettings):
    """``dynamic``: the soft-prompt generator (Wang et al., EMNLP 2024)."""

    low_rank: NotNegative = 8
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Of the transformer blocks."""
    learning_rate_embedding: Annotated[float, Field(gt=0)] = 1e-4
    """Of the embedding rows that occur in the fitted prefixes."""
    learning_rate_queries: Annotated[float, Field(gt=0)] = 1e-2
    """Of the free vectors of the ``queries`` mapping."""
    depth: Positive = 1
    """Transformer blocks in the generator."""
    initialisation: Literal["identity", "random"] = "identity"
    """``identity``: the generator returns its input before the first step."""
    mapping: Literal["naive", "queries"] = "queries"
    """``naive``: the last V prefix tokens, repeated as needed (the paper's mapping m)."""
    start: Literal["vocabulary", "constant"] = "vocabulary"
    """Where the free vectors of ``queries`` start: rows of the vocabulary, or the constant
    prompt fitted on the same fold."""
    embedding: Literal["trained", "frozen"] = "frozen"
    """Whether the embedding rows that occur in the fitted prefixes are trained too."""

    @property
    def starts_from_constant(self) -> bool:
        """Whether a constant prompt has to be fitted first."""
        return self.mapping == "queries" and self.start == "constant"
