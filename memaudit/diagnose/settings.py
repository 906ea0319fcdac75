"""Settings of every diagnosis: the run, the location of its files, and limits.

Knows no single diagnosis: each adds its own settings in its room.
"""

from __future__ import annotations

from typing import Annotated

from memaudit.config.base import NotNegative, Positive, Settings, UserPath
from memaudit.config.flags import (
    ALLOW_PICKLE,
    BATCH_SIZE,
    DEVICE,
    OFFLINE,
    SEED,
    TRUST_REMOTE_CODE,
    Flag,
)

WINDOWS = Flag("--windows", "Look at up to this many windows of each group.")


class DiagnoseSettings(Settings):
    """Settings of every diagnosis."""

    run: UserPath
    """Folder of a finished run."""
    model: Annotated[
        str | None, Flag("--model", "Location of the model, if it has moved since the scan.")
    ] = None
    data: Annotated[
        UserPath | None, Flag("--data", "Location of the data, if they have moved.")
    ] = None
    controls: Annotated[
        UserPath | None, Flag("--controls", "Location of the controls, if they have moved.")
    ] = None
    windows: Annotated[Positive, WINDOWS] = 1000
    """The seed chooses them."""
    seed: Annotated[NotNegative, SEED] = 0
    reveal: Annotated[
        bool,
        Flag("--reveal", "Write all figures; the model can turn them back into text.", "Output"),
    ] = False
    device: Annotated[str | None, DEVICE] = None
    """Default: the run's own."""
    batch_size: Annotated[Positive | None, BATCH_SIZE] = None
    """Default: chosen to fit the free memory."""
    trust_remote_code: Annotated[bool, TRUST_REMOTE_CODE] = False
    allow_pickle: Annotated[bool, ALLOW_PICKLE] = False
    offline: Annotated[bool, OFFLINE] = False
