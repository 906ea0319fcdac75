"""What taking a part of a block away costs in memory and in skill, with intervals over clusters.

Knows arrays of what was read. Knows nothing of models or of how it is shown. Letters: A ablations,
N windows, R resamples, K clusters.

A part that a model cannot do without takes memory and skill along, and memory falls faster: what is
extracted has everything to lose. So each loss is compared with what noise in every block costs that
harms skill as much. The excess is what is lost beyond that. Windows that are not extracted were
mostly trained on too, where controls were not: what extracted ones lose beyond them is apart from
what training on a text gives, extracted or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.diagnose.layers.ablation import Ablated
from memaudit.score.stats import Bools, Floats, Interval, Ints, clustered_rate


@dataclass(frozen=True, eq=False)
class Estimates:
    """A figure of each ablation, and its values in the resamples."""

    values: Floats
    """(A,), NaN where there is nothing to measure it by."""
    drawn: Floats
    """(R,A)."""
    confidence: float

    def intervals(self) -> list[Interval]:
        """Percentile intervals, each for itself."""
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(self.drawn, [tail, 1 - tail], axis=0)
        return [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]

    def together(self, among: Bools) -> list[Interval]:
        """Intervals that hold for all of ``among`` (A,) at once; NaN for the others.

        From the largest studentised deviation over them in each resample (Westfall & Young 1993,
        max-t), so that the best of many is not taken for more than luck. Where an ablation does the
        same in every resample, its interval is a point, as the bootstrap's is.
        """
        bad = Interval(np.nan, np.nan)
        among = among & ~np.isnan(self.values)
        if not among.any():
            return [bad] * len(self.values)
        spread = self.drawn.std(axis=0)
        off = np.abs(self.drawn - self.values)[:, among] / np.maximum(spread[among], 1e-12)
        reach = float(np.quantile(off.max(axis=1), self.confidence)) * spread
        return [
            Interval(float(value - far), float(value + far)) if one else bad
            for value, far, one in zip(self.values, reach, among, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Costs:
    """Of each ablation; all (A,)."""

    lost: Estimates
    """Share of the extracted windows that are extracted no longer."""
    memory: Estimates
    """Rise of the suffix NLL of the extracted windows, nats/token."""
    matched: Estimates
    """Change of the share of their suffix tokens that come after the true ones before them."""
    others: Estimates
    """Rise of that of windows that are not extracted."""
    skill: Estimates
    """Rise of that of the windows by which skill is measured."""
    selective: Estimates
    """``memory`` minus ``skill``."""
    beyond_others: Estimates
    """``memory`` minus ``others``."""
    excess: Estimates
    """``memory`` beyond that of noise with the same rise of ``skill``; NaN beyond the strongest,
    and of noise itself."""
    excess_lost: Estimates
    """``lost`` beyond that of the same noise; NaN too where both lose all."""
    kept: Sequence[Interval]
    """Of the share of the extracted windows that still are: exact where all fare alike."""


def cost(found: Ablated, confidence: float, resamples: int, rng: np.random.Generator) -> Costs:
    """All figures, from the same resamples of clusters."""
    noise = np.array([one.kind == "noise" for one in found.ablations])
    lost_each = (found.extracted.exact[0] & ~found.extracted.exact).astype(np.float64)
    weights = {
        "extracted": _weights(found.extracted.clusters, resamples, rng),
        "others": _weights(found.others.clusters, resamples, rng),
        "skill": _weights(found.skill.clusters, resamples, rng),
    }

    def estimate(name: str, values: Floats) -> Estimates:
        if not values.shape[1]:
            nothing = np.full((resamples, len(values)), np.nan)
            return Estimates(nothing[0], nothing, confidence)
        return Estimates(values.mean(axis=1), weights[name] @ values.T, confidence)

    lost, memory = estimate("extracted", lost_each), estimate("extracted", found.extracted.rise)
    skill = estimate("skill", found.skill.rise)
    unknown = noise | (skill.values > skill.values[noise].max(initial=0.0))

    def excess(of: Estimates, most: float = np.inf) -> Estimates:
        pairs = zip(of.drawn, skill.drawn, strict=True)
        drawn = np.array([_excess(one, rise, noise) for one, rise in pairs])
        values = _excess(of.values, skill.values, noise)
        both = np.minimum(of.values, of.values - values) > most - 1e-9
        blank = unknown | both
        return Estimates(
            np.where(blank, np.nan, values), np.where(blank, np.nan, drawn), confidence
        )

    others = estimate("others", found.others.rise)
    clusters = found.extracted.clusters
    return Costs(
        lost=lost,
        memory=memory,
        matched=estimate("extracted", found.extracted.matched - found.extracted.matched[:1]),
        others=others,
        skill=skill,
        selective=Estimates(memory.values - skill.values, memory.drawn - skill.drawn, confidence),
        beyond_others=Estimates(
            memory.values - others.values, memory.drawn - others.drawn, confidence
        ),
        excess=excess(memory),
        excess_lost=excess(lost, most=1.0),
        kept=[
            clustered_rate(hits, clusters, confidence=confidence, resamples=resamples, rng=rng)
            for hits in found.extracted.exact
        ],
    )


def _weights(clusters: Ints, resamples: int, rng: np.random.Generator) -> Floats:
    """(R,N) of each window in each resample of whole clusters; rows sum to 1."""
    if not len(clusters):
        return np.empty((resamples, 0))
    _, place = np.unique(clusters, return_inverse=True)
    drawn = int(place.max()) + 1
    counts = rng.multinomial(drawn, np.full(drawn, 1 / drawn), size=resamples)[:, place]
    shares: Floats = counts / counts.sum(axis=1, keepdims=True)
    return shares


def _excess(loss: Floats, skill: Floats, noise: Bools) -> Floats:
    """Of losses (A,), what is beyond the noise's at the same rise of skill's NLL.

    Between two strengths of noise the loss is read off a straight line; below the weakest it falls
    to 0 with the rise, and above the strongest it is that one's. Noise that harms skill no more
    than weaker noise does is passed over.
    """
    rises, losses = [0.0], [0.0]
    for rise, lost in zip(skill[noise], loss[noise], strict=True):
        if rise > rises[-1]:
            rises.append(float(rise))
            losses.append(max(float(lost), losses[-1]))
    return np.asarray(loss - np.interp(skill, rises, losses))
