"""What every diagnosis is told: which run, where its files lie now, and how much is looked at.

Knows no single diagnosis: each adds its own settings to these where it lives.
"""

from __future__ import annotations

from memaudit.config.base import NotNegative, Positive, Settings, UserPath


class DiagnoseSettings(Settings):
    """Common to all diagnoses."""

    run: UserPath
    """Folder of a finished run."""
    model: str | None = None
    """Where the audited model lies now; where the run says if not given, as for the next two."""
    data: UserPath | None = None
    controls: UserPath | None = None
    device: str | None = None
    """As for a scan; the run's own where not given."""
    batch_size: Positive | None = None
    """Windows per pass; found from the memory there is where not given."""
    windows: Positive = 1000
    """Windows of each group that are looked at, at most, drawn at random with the seed."""
    seed: NotNegative = 0
    reveal: bool = False
    """Write all figures, from which whoever has the model may get text back."""
    trust_remote_code: bool = False
    allow_pickle: bool = False
    offline: bool = False
