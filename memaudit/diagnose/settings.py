"""Settings that all diagnoses share.

Knows no single diagnosis: each adds its own settings in its own folder.
"""

from __future__ import annotations

from memaudit.config.base import NotNegative, Positive, Settings, UserPath


class DiagnoseSettings(Settings):
    """Settings of every diagnosis."""

    run: UserPath
    """Folder of a finished run."""
    model: str | None = None
    """Audited model, if it has moved; default: the place that the run names."""
    data: UserPath | None = None
    """Audited data file, if it has moved."""
    controls: UserPath | None = None
    """Control file, if it has moved."""
    device: str | None = None
    """Device, as in a scan; default: that of the run."""
    batch_size: Positive | None = None
    """Windows per pass; default: chosen by the memory available."""
    windows: Positive = 1000
    """Most windows to read from each group, sampled at random with the seed."""
    seed: NotNegative = 0
    """Random seed."""
    reveal: bool = False
    """Write all figures; with a copy of the model, they can reveal text."""
    trust_remote_code: bool = False
    allow_pickle: bool = False
    offline: bool = False
