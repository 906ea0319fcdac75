"""Logits that are no numbers: found wherever they come out, and never taken for an answer.

Knows logits and windows. Such a window would read as not extracted, and pass a gate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.verification import most_likely
from memaudit.errors import RunError
from memaudit.target.checkpoint import Checkpoint


class NotFinite(RunError):
    """The target gives logits that are no numbers: nothing can be said of these windows."""

    def __init__(self, message: str, ids: NDArray[np.int64]) -> None:
        super().__init__(message)
        self.ids = ids
        """(windows,P+S): the windows; none where it is not known which."""


def require_finite(checkpoint: Checkpoint, finite: Tensor, ids: Tensor | None = None) -> None:
    """Raise NotFinite unless all are.

    finite: (B,) bool, by window; ids: (B,P+S), where they are at hand.
    """
    if not finite.all():
        bad = np.empty((0, 0), dtype=np.int64) if ids is None else ids[~finite].cpu().numpy()
        raise NotFinite(
            f"{checkpoint.name} gives logits that are not finite in "
            f"{str(checkpoint.dtype).removeprefix('torch.')}; use --dtype float32, or "
            "lower learning_rate if it was fitting a prompt",
            bad,
        )


def next_token(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The greedy choice (B,) of logits (B,1,X), and whether it was made among numbers, (B,) bool.

    The latter is for `require_finite` once decoding is done: to look at it after each step would
    make a GPU wait for every one.
    """
    last = logits[:, 0].float()
    token = most_likely(last)  # what is no number counts as the largest, wherever there is one
    return token, last.gather(-1, token[:, None])[:, 0].isfinite()
