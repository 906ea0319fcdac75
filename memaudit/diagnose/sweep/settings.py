"""Settings of ``diagnose sweep``.

Knows nothing of the method.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from memaudit.config.base import Positive
from memaudit.config.flags import Flag
from memaudit.diagnose.settings import DiagnoseSettings


class SweepSettings(DiagnoseSettings):
    """Settings of ``diagnose sweep``."""

    prefix_lengths: tuple[Positive, ...] = (5, 10, 20, 30)
    """Prefix lengths p, in tokens; only lengths below the run's are used."""
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
    """Most windows to fit and score on, with a third as many controls."""
    virtual_tokens: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 5, 20, 50, 100)
    """V to fit, in addition to the run's."""
    seeds: Annotated[int, Field(ge=1, le=20)] = 3
    """Fits per kind of start, at the run's V."""
