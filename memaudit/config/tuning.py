"""Settings for fitting soft prompts: ``constant`` and ``dynamic``.

Knows nothing of how a prompt is made.
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
    """Passes over the fit windows."""
    min_steps: NotNegative = 200
    """Smallest number of steps: with little data, train more epochs until it is reached."""
    batch_size: Positive = 16
    """Windows per optimizer step; split into smaller passes if memory is short."""
    windows_per_pass: Positive | None = None
    """Largest number of windows in one pass. A step adds up its passes in order, and each process
    takes whole passes. Default: 8 on a CPU; on CUDA, one pass per process."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-2
    """Learning rate of the soft prompt."""
    schedule: Literal["linear", "constant"] = "linear"
    """Learning rate after the warm-up: falls linearly to zero, or stays constant."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps over which the learning rate rises linearly from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of the optimizer."""
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0 for no limit."""
    patience: Positive | None = 5
    """Stop after this many epochs without a better ``select``, but not within a quarter of
    ``min_steps``, which takes many epochs with little data."""
    loss: Literal["aligned", "full"] = "aligned"
    """Cross-entropy over the suffix (``aligned``), or prefix and suffix (the paper's ablation)."""
    focus: Annotated[float, Field(ge=0)] = 2.0
    """tau: weight each window's gradient by exp(-tau * NLL); 0 weights all windows equally."""
    fit_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the fit windows to train on, taking those most likely under ``none``."""
    low_rank: NotNegative = 0
    """Rank of a trained linear change to the embeddings of the window's tokens; 0 for none."""
    learning_rate_low_rank: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of the low-rank change."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the fitting passes. The prompt is float32, and every verdict uses the target's
    own dtype. ``auto``: bfloat16 if the processor multiplies in it, else float32."""

    def for_one_epoch(self) -> Self:
        """Return these settings for a single pass over the windows, such as for timing."""
        return self.model_copy(update={"epochs": 1, "min_steps": 0, "patience": None})

    def trained_on(self, windows: int) -> int:
        """Return how many of ``windows`` fit windows are trained on."""
        return max(1, round(self.fit_share * windows))

    def epochs_for(self, windows: int) -> int:
        """Return the epochs over ``windows`` fit windows: ``epochs``, or more for ``min_steps``."""
        steps = math.ceil(windows / self.batch_size)
        return max(self.epochs, math.ceil(self.min_steps / steps))

    def patience_for(self, windows: int) -> int | None:
        """Return the epochs without a better ``select`` after which a fit of ``windows`` stops."""
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
    """Learning rate of the transformer blocks."""
    learning_rate_embedding: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate of the embedding rows that occur in the fitted prefixes."""
    learning_rate_queries: Annotated[float, Field(gt=0)] = 1e-2
    """Learning rate of the free vectors of the ``queries`` mapping."""
    depth: Positive = 1
    """Transformer blocks in the generator."""
    initialisation: Literal["identity", "random"] = "identity"
    """``identity``: the generator returns its input before the first step."""
    mapping: Literal["naive", "queries"] = "queries"
    """``queries``: V free vectors. ``naive``: the last V prefix tokens, repeated as needed (the
    paper's mapping m)."""
    start: Literal["vocabulary", "constant"] = "vocabulary"
    """Initial values of the free vectors of ``queries``: rows of the vocabulary, or the constant
    prompt fitted on the same fold."""
    embedding: Literal["trained", "frozen"] = "frozen"
    """Train the embedding rows that occur in the fitted prefixes, or freeze them."""

    @property
    def starts_from_constant(self) -> bool:
        """True if a constant prompt must be fitted first."""
        return self.mapping == "queries" and self.start == "constant"
