"""Settings of `diagnose neurons`, with their bounds."""

from __future__ import annotations

from typing import Literal

from memaudit.config.base import Fraction, Positive
from memaudit.diagnose.settings import DiagnoseSettings


class NeuronsSettings(DiagnoseSettings):
    """Settings of `diagnose neurons`; ``windows`` is the most per group for the probes."""

    probe_blocks: Positive = 12
    """Most blocks to probe, evenly spaced from the first to the last."""
    unit_windows: Positive = 30
    """Extracted windows to search units for, one per cluster."""
    most_units: Positive = 1024
    """Most units to silence together."""
    silence: Literal["mean", "zero"] = "mean"
    """Value of a silenced unit: its mean over other text, the usual level for later layers, or
    zero."""
    erased: Fraction = 0.5
    """Share of a suffix's tokens that must be wrong for the suffix to count as erased."""
    trials: Positive = 100
    """Most trials per window to leave units out of a set."""
    random_sets: Positive = 10
    """Sets of random units to compare each set with."""
    cost_windows: Positive = 20
    """Most windows per group to measure the cost of each set on."""
