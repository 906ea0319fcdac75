"""Settings of ``diagnose signals``.

Knows nothing of the method.
"""

from __future__ import annotations

from memaudit.config.base import Fraction, Positive
from memaudit.diagnose.settings import DiagnoseSettings


class SignalsSettings(DiagnoseSettings):
    """Settings of ``diagnose signals``."""

    border: Positive = 10
    """Tokens compared on either side of the border; fewer than 10 only with --reveal."""
    partly: Fraction = 0.5
    """Share of the suffix that ``none`` must return for a window to count as partly extracted."""
    predictor_windows: Positive = 6000
    """Most windows to fit and score the predictor on, sampled uniformly from the data."""
