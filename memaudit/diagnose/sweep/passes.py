"""What a model says of windows with their last p prefix tokens before them: one pass for each p.

Knows models, ids and what one teacher-forced pass decides. Knows nothing of runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.extraction import NEAR_TIE, Advance
from memaudit.attack.verification import verify_logits
from memaudit.config.settings import ScoreSettings
from memaudit.diagnose.passes import Pass, Passes
from memaudit.score.stats import Bools, Floats, Ints
from memaudit.target.checkpoint import Checkpoint


@dataclass(frozen=True, eq=False)
class Said:
    """What one pass said of n windows."""

    matched: Ints
    """(n,) suffix tokens before the first mismatch of greedy decoding, 0..S."""
    nll: Floats
    """(n,) of the suffix, nats/token."""
    suffix_tokens: int
    """S."""

    @property
    def exact(self) -> Bools:
        """(n,) whether the whole suffix comes out."""
        return np.asarray(self.matched == self.suffix_tokens)


@dataclass(frozen=True)
class Asker:
    """How a model is asked, whichever it is."""

    scores: ScoreSettings
    suffix_tokens: int
    batch_size: int

    def ask(
        self,
        checkpoint: Checkpoint,
        ids: NDArray[np.int32],
        prefix_tokens: int,
        advance: Advance = lambda done: None,
    ) -> Said:
        """Ask about windows (n,P+S) with the last ``prefix_tokens`` of their prefix, P at most.

        A verdict that hangs on a near-tie is taken again from a pass of that window alone, as
        extraction does, so that no verdict depends on the batch it was made in.
        """
        shown = np.ascontiguousarray(ids[:, ids.shape[1] - self.suffix_tokens - prefix_tokens :])
        near_tie = NEAR_TIE[checkpoint.precision]

        def read(one: Pass) -> dict[str, Tensor]:
            found = verify_logits(one.logits, one.tokens, self.scores, near_tie)
            return {"matched": found.matched, "nll": found.nll, "undecided": found.undecided}

        found = Passes(checkpoint, prefix_tokens, self.batch_size).read(shown, read, advance)
        open_ = np.flatnonzero(found["undecided"])
        if len(open_) and self.batch_size > 1:
            alone = Passes(checkpoint, prefix_tokens, 1).read(shown[open_], read)
            found["matched"][open_] = alone["matched"]
        return Said(found["matched"].astype(np.int64), found["nll"], self.suffix_tokens)
