"""Figures of batches and fits that the report shows. Plain dataclasses, no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchFacts:
    """Windows per pass of one kind of work."""

    planned: int
    """From the settings, or chosen from the free memory."""
    smallest: int
    """The smallest size while memory was short."""
    final: int
    """Size at the end: sizes grow again while passes succeed."""
    shortages: int
    """How often memory ran out and the size was halved."""
    recomputed: bool
    """True if the backward pass recomputed the activations of each block of the target."""

    @property
    def remark(self) -> str:
        """How memory changed the planned size; empty if it did not."""
        parts = []
        if self.shortages:
            times = "once" if self.shortages == 1 else f"{self.shortages:,} times"
            parts.append(
                f"planned {self.planned:,}, halved {times} for lack of memory, "
                f"down to {self.smallest:,}"
            )
        if self.recomputed:
            parts.append("activations recomputed in the backward pass")
        return "; ".join(parts)


NO_PROMPT = "no prompt"
"""The choice if ``select`` did better without a prompt, or cannot tell."""
FEW_TO_SELECT = "too few windows to choose an epoch by"
"""Why a fit ends before it begins."""


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
    """``epoch K``, or ``no prompt`` if that did better on ``select`` than every epoch, or if
    ``select`` has too few windows to tell."""
    epochs: tuple[Epoch, ...]
    """The curve, from epoch 0 on."""
    stop_reason: str
    """Why training ended."""
    trainable_parameters: int
    """Number of trained parameters."""
    fit_windows: int
    """Windows trained on."""
    select_windows: int
    """Windows used to choose the epoch."""
    precision: str
    """Number format of the tuning passes, for example ``bfloat16``."""
