"""Settings of ``diagnose signals``.

Knows nothing of how it is done.
"""

from __future__ import annotations

from memaudit.config.base import Fraction, Positive
from memaudit.diagnose.settings import DiagnoseSettings


class SignalsSettings(DiagnoseSettings):
    """Settings of ``diagnose signals``."""

    border: Positive = 10
    """Tokens on either side of the border that are compared; fewer than 10 only with --reveal."""
    partly: Fraction = 0.5
    """Share of the suffix that ``none`` brings back of a window that is partly extracted."""
    predictor_windows: Positive = 6000
    """Windows, drawn evenly from the data, that the predictor is fitted and scored on, at most."""
