"""Settings of ``diagnose sweep``.

Knows nothing of how it is done.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from memaudit.config.base import Positive
from memaudit.config.flags import Flag
from memaudit.diagnose.settings import DiagnoseSettings


class SweepSettings(DiagnoseSettings):
    """What is varied, and how far."""

    prefix_lengths: tuple[Positive, ...] = (5, 10, 20, 30)
    """Prefix tokens shown, p; those below the run's own, which stands in the run."""
    models: Annotated[
        tuple[str, ...],
        Flag(
            "--with",
            "Another model size or training stage; repeatable.",
            metavar="MODEL",
            repeatable=True,
        ),
    ] = ()
    """Each has the same tokenizer; written as ``NAME`` or, on the hub, ``NAME@REVISION``."""
    by: Annotated[
        str | None,
        Flag("--by", "Column that counts repetitions (default: dup, if there is one)."),
    ] = None
    fits: Annotated[bool, Flag("--fits", "Also fit prompts: length, start, depth, kind.")] = False
    fit_windows: Positive = 1500
    """Windows at most that are fitted and scored on, and a third as many controls."""
    virtual_tokens: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 5, 20, 50, 100)
    """V's that are fitted, beside the run's own."""
    seeds: Annotated[int, Field(ge=1, le=20)] = 3
    """Fits of each kind of start, at the run's own V."""
