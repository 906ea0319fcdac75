"""Settings of ``diagnose attention``.

Knows nothing of the method.
"""

from __future__ import annotations

from typing import Annotated

from memaudit.config.base import Positive
from memaudit.diagnose.settings import WINDOWS, DiagnoseSettings


class AttentionSettings(DiagnoseSettings):
    """Settings of ``diagnose attention``."""

    windows: Annotated[Positive, WINDOWS] = 300
    """Groups: extracted, hidden, not extracted, controls."""
