"""What a fit leaves behind besides its weights: plain figures, no torch, for the report."""

from __future__ import annotations

from dataclasses import dataclass

NO_PROMPT = "no prompt"
"""What was chosen where ``select`` did better without any prompt."""


@dataclass(frozen=True)
class Epoch:
    """One point of the training curve."""

    epoch: int
    """0 is the prompt before training."""
    loss: float
    """Mean cross-entropy of the fit windows, nats/token; NaN for epoch 0."""
    select_exact: int
    """Windows of ``select`` extracted exactly."""
    select_nll: float
    """Mean suffix NLL on ``select``, nats/token."""


@dataclass(frozen=True)
class FitRecord:
    """How one soft prompt was fitted."""

    chosen: str
    """``epoch K``, or ``no prompt`` where that did better on ``select`` than every epoch."""
    epochs: tuple[Epoch, ...]
    """The curve, from epoch 0 on."""
    stop_reason: str
    """Why training ended."""
    trainable_parameters: int
    """Numbers that were trained."""
    fit_windows: int
    """Windows trained on."""
    select_windows: int
    """Windows that picked the epoch."""
    precision: str
    """Number format of the passes that fitted it, as ``bfloat16``."""
