"""Cost of removing a part of a block, in memory and in skill, with intervals over clusters.

Knows arrays of scores, no models and no report. A: ablations, N: windows.

An essential part costs memory and skill, and memory falls faster, because extracted windows have
more to lose. So each loss is compared with the loss under noise in every block that harms skill
as much; the excess is the rest. Windows that are not extracted were mostly trained on, unlike
controls: the loss of extracted windows beyond theirs is not an effect of training alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.diagnose.layers.measure import Measurements
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Replicates, Resamples
from memaudit.score.stats import Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Costs:
    """Costs of each ablation; all (A,)."""

    lost: Replicates
    """Share of the extracted windows that are no longer extracted."""
    memory: Replicates
    """Rise of the suffix NLL of the extracted windows, nats/token."""
    matched: Replicates
    """Change of the share of their suffix tokens that are predicted after the true ones."""
    not_extracted: Replicates
    """Rise of the suffix NLL of windows that are not extracted."""
    skill: Replicates
    """Rise of the suffix NLL of the windows that measure skill."""
    selective: Replicates
    """``memory`` minus ``skill``."""
    beyond_not_extracted: Replicates
    """``memory`` minus ``not_extracted``."""
    excess: Replicates
    """``memory`` minus that of noise with the same ``skill``; NaN for noise, and beyond the
    strongest noise."""
    excess_lost: Replicates
    """``lost`` minus that of the same noise; NaN as in ``excess``, or if both lose all."""
    still_extracted: Sequence[Estimate]
    """Share of the extracted windows that are still extracted."""


def cost(ablated: Measurements, resamples: Resamples) -> Costs:
    """Return all costs; those of one group of windows share their resamples.

    ``resamples`` has a generator, so that the resamples of different groups are independent.
    """
    noise = np.array([ablation.kind == "noise" for ablation in ablated.ablations])
    extracted, clusters = ablated.extracted, ablated.extracted.clusters
    lost_each = (extracted.exact[0] & ~extracted.exact).astype(np.float64)
    matched_each = extracted.matched - extracted.matched[:1]
    count = len(ablated.ablations)
    groups = _means(resamples, clusters, lost_each, extracted.rise, matched_each)
    lost, memory, matched = (
        groups.take(slice(start, start + count)) for start in range(0, 3 * count, count)
    )
    not_extracted = _means(resamples, ablated.not_extracted.clusters, ablated.not_extracted.rise)
    skill = _means(resamples, ablated.skill.clusters, ablated.skill.rise)
    unknown = noise | (skill.values > skill.values[noise].max(initial=0.0))

    def excess(losses: Replicates, total: float = np.inf) -> Replicates:
        pairs = zip(losses.samples, skill.samples, strict=True)
        samples = np.array([_excess(loss, rise, noise) for loss, rise in pairs])
        values = _excess(losses.values, skill.values, noise)
        both_total = np.minimum(losses.values, losses.values - values) > total - 1e-9
        blank = unknown | both_total
        return Replicates(
            np.where(blank, np.nan, values), np.where(blank, np.nan, samples), losses.confidence
        )

    return Costs(
        lost=lost,
        memory=memory,
        matched=matched,
        not_extracted=not_extracted,
        skill=skill,
        selective=memory.minus(skill),
        beyond_not_extracted=memory.minus(not_extracted),
        excess=excess(memory),
        excess_lost=excess(lost, total=1.0),
        still_extracted=[resamples.rate(hits, clusters) for hits in extracted.exact],
    )


def _means(resamples: Resamples, clusters: Ints, *figures: Floats) -> Replicates:
    """Return the means over windows of figures (A,N), set by set; NaN without windows."""
    columns = np.concatenate(figures).T
    if len(columns):
        return resamples.means(columns, clusters)
    unknown = np.full((resamples.number, columns.shape[1]), np.nan)
    return Replicates(unknown[0], unknown, resamples.confidence)


def _excess(loss: Floats, skill: Floats, noise: Bools) -> Floats:
    """Return losses (A,) minus the loss under noise with the same rise of skill's NLL.

    The loss under noise is interpolated linearly between two strengths, and between 0 and the
    weakest; above the strongest it is constant. Noise that harms skill no more than weaker noise
    is skipped.
    """
    rises, losses = [0.0], [0.0]
    for rise, lost in zip(skill[noise], loss[noise], strict=True):
        if rise > rises[-1]:
            rises.append(float(rise))
            losses.append(max(float(lost), losses[-1]))
    return np.asarray(loss - np.interp(skill, rises, losses))
