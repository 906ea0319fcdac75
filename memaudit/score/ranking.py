"""Windows ranked by a score, and how well the ranking separates two kinds of window.

Knows scores, labels and weights as arrays. Knows nothing of what they mean or of intervals. N
stands for windows, R for sets of weights (resamples), D for distinct scores, G for shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memaudit.score.stats import Bools, Floats


@dataclass(frozen=True, eq=False)
class Ranking:
    """Weight of the windows down to each distinct score, highest first, for R sets of weights.

    Within equal scores any order is as likely: figures are the expectation over it. A figure is
    NaN if it is a share of nothing.
    """

    windows: Floats
    """(R,D+1), beginning with 0."""
    positives: Floats
    """(R,D+1), the positives among them."""

    @classmethod
    def of(cls, scores: Floats, positive: Bools, weights: Floats) -> Ranking:
        """Rank scores (N,), which may be infinite, under weights (R,N).

        Raises:
            ValueError: a score is NaN.
        """
        if np.isnan(scores).any():
            raise ValueError("a score is NaN")
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        sorted_weights = weights[:, order]
        start = np.zeros((len(weights), 1))
        return cls(
            np.hstack([start, np.cumsum(sorted_weights, axis=1)[:, last]]),
            np.hstack([start, np.cumsum(sorted_weights * positive[order], axis=1)[:, last]]),
        )

    @property
    def negatives(self) -> Floats:
        """(R,D+1)."""
        return self.windows - self.positives

    def area(self) -> Floats:
        """Return the AUC (R,): how often a positive outscores a negative, ties counting half.

        Hanley & McNeil 1982.
        """
        above = self.positives[:, 1:] + self.positives[:, :-1]
        pairs = self.positives[:, -1] * self.negatives[:, -1]
        won = (np.diff(self.negatives, axis=1) * above).sum(axis=1) / 2
        return _ratio(won, pairs)

    def average_precision(self) -> Floats:
        """Return the mean precision at the positives (R,), equal scores in one step."""
        precision = _ratio(self.positives[:, 1:], self.windows[:, 1:])
        steps = np.diff(self.positives, axis=1)
        return _ratio(np.nansum(steps * precision, axis=1), self.positives[:, -1])

    def precision(self, top: float) -> Floats:
        """Return the share of positives (R,) among the highest ``top`` windows by weight."""
        counts = np.minimum(top, self.windows[:, -1:])
        return _ratio(_read_off(counts, self.windows, self.positives), counts)[:, 0]

    def recall(self, shares: Floats) -> Floats:
        """Return the share of the positives (R,G) among the highest ``shares`` (G,) of windows."""
        reached = _read_off(shares * self.windows[:, -1:], self.windows, self.positives)
        return _ratio(reached, self.positives[:, -1:])

    def roc(self, shares: Floats) -> Floats:
        """Return the share of the positives (R,G) above ``shares`` (G,) of the negatives."""
        negatives = self.negatives
        reached = _read_off(shares * negatives[:, -1:], negatives, self.positives)
        return np.where(negatives[:, -1:] > 0, _ratio(reached, self.positives[:, -1:]), np.nan)

    def needed(self, reaches: Floats) -> Floats:
        """Return the share of the windows (R,G) that holds ``reaches`` (G,) of the positives."""
        needed = np.full((len(self.windows), len(reaches)), np.nan)
        for row, (windows, positives) in enumerate(zip(self.windows, self.positives, strict=True)):
            if not positives[-1]:
                continue
            wanted = reaches * positives[-1]
            after = np.maximum(1, np.searchsorted(positives, wanted * (1 - 1e-12)))
            part = (wanted - positives[after - 1]) / (positives[after] - positives[after - 1])
            before = windows[after - 1]
            needed[row] = (before + part * (windows[after] - before)) / windows[-1]
        return needed


def _read_off(at: Floats, x: Floats, y: Floats) -> Floats:
    """Return (R,G) values at ``at`` of the polygons through ``x`` and ``y``, both (R,D+1)."""
    return np.array([np.interp(*row) for row in zip(at, x, y, strict=True)])


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Return the share, NaN of nothing; the shapes are broadcast."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0))
