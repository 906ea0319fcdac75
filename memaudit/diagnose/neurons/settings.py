"""What `diagnose neurons` is told.

Knows numbers and their bounds only.
"""

from __future__ import annotations

from typing import Literal

from memaudit.config.base import Fraction, Positive
from memaudit.diagnose.settings import DiagnoseSettings


class NeuronsSettings(DiagnoseSettings):
    """Beside what every diagnosis is told; ``windows`` are those of each group for the probes."""

    probe_blocks: Positive = 12
    """Blocks that are probed, at most: evenly spaced, the first and the last among them."""
    unit_windows: Positive = 30
    """Extracted windows, of one cluster each, whose units are searched."""
    most_units: Positive = 1024
    """Units that are silenced together, at most."""
    silence: Literal["mean", "zero"] = "mean"
    """What a silenced unit gives: its mean over other text, which leaves what follows the level
    that it is used to, or nothing."""
    erased: Fraction = 0.5
    """Share of a suffix's tokens that must come out wrong for it to count as erased."""
    trials: Positive = 100
    """Trials per window, at most, in which units are left out of a set again."""
    random_sets: Positive = 10
    """Sets of random units that each set found is compared with."""
    cost_windows: Positive = 20
    """Windows of each group, at most, that the cost of each set is measured on."""
