"""Settings of ``diagnose layers``.

Knows nothing of how it is done.
"""

from __future__ import annotations

from typing import Annotated

from memaudit.config.base import Positive
from memaudit.diagnose.settings import WINDOWS, DiagnoseSettings


class LayersSettings(DiagnoseSettings):
    """Settings of ``diagnose layers``."""

    windows: Annotated[Positive, WINDOWS] = 150
    """Groups: extracted, not extracted, controls. Each is read once for the
    intact model, twice for each block and once for each strength of noise."""
