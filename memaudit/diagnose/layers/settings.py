"""Settings of ``diagnose layers``.

Knows nothing of the method.
"""

from __future__ import annotations

from typing import Annotated

from memaudit.config.base import Positive
from memaudit.diagnose.settings import WINDOWS, DiagnoseSettings


class LayersSettings(DiagnoseSettings):
    """Settings of ``diagnose layers``."""

    windows: Annotated[Positive, WINDOWS] = 150
    """Groups: extracted, not extracted, controls. Each window takes one pass for the intact model,
    two for each block and one for each strength of noise."""
