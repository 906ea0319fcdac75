"""Figures of batches and fits that the report shows. Plain dataclasses, no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchFacts:
    """Windows per pass of one kind of work."""

    planned: int
    """As asked, or as was chosen from the memory that was free."""
    smallest: int
    """The fewest, while memory was short."""
    final: int
    """At the end: sizes grow again while passes go through."""
    shortages: int
    """How often memory ran out and the size was halved."""
    recomputed: bool
    """Whether what each block of the target gave was computed anew on the way back."""

    @property
    def remark(self) -> str:
        """What memory did to the planned size; empty where it did nothing."""
        parts = []
        if self.shortages:
            times = "once" if self.shortages == 1 else f"{self.shortages:,} times"
            parts.append(
                f"planned {self.planned:,}, halved {times} for want of memory, "
                f"to {self.smallest:,} at the smallest"
            )
        if self.recomputed:
            parts.append("activations computed anew on the way back")
        return "; ".join(parts)


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
