"""Settings of ``diagnose latent``.

Knows nothing of the method.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from memaudit.config.base import Fraction, NotNegative, Positive
from memaudit.config.flags import Flag
from memaudit.diagnose.settings import DiagnoseSettings

DEFAULT_STRENGTH = 0.1
"""Strength of the noise; `LatentSettings` explains the choice."""


class LatentSettings(DiagnoseSettings):
    """Settings of ``diagnose latent``."""

    reference: Annotated[str | None, Flag("--reference", "Model to compare NLLs with.")] = None
    """It needs the same tokenizer. Default: the reference of the run, if it had one."""
    known: Annotated[
        Path | None, Flag("--known", "Run of the same windows on an earlier checkpoint.")
    ] = None
    """What its ``none`` extracts is known to have been in the model."""
    top: Positive = 100
    """Windows with the highest scores that precision is computed over."""
    min_k: Fraction = 0.2
    """Share of the suffix tokens that Min-K% and Min-K%++ average."""
    draws: NotNegative = 10
    """Random perturbations of the weights; 0 perturbs nothing. More perturbations bring back more
    windows: of the same 319, 2, 4 and 8 of strength 0.1 brought back 31, 51 and 86."""
    strength: Annotated[float, Field(ge=0, le=10)] = DEFAULT_STRENGTH
    """Standard deviation of the noise, as a share of each weight matrix's root mean square.

    Tested on a model of 7M parameters after further training, with 319 windows that it no longer
    returned: 8 perturbations of 0.02, 0.05, 0.1 and 0.2 brought back 27, 65, 86 and 55 of them, 1
    to 7 of 600 other windows, and none of 500 controls. The rise of the NLL, divided by the NLL,
    separated the 319 from the other windows with an AUC of 0.74, 0.85, 0.91 and 0.93; the NLL
    alone with 0.84. The default was thus chosen on the windows it was judged by, which favours it.
    """
