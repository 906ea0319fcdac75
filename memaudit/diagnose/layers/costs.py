"""What taking a part of a block away costs in memory and in skill, with intervals over clusters.

Knows arrays of what was read. Knows nothing of models or of how it is shown. Letters: A ablations,
N windows.

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
from memaudit.score.estimate import Estimate
from memaudit.score.resample import Replicates, Resamples
from memaudit.score.stats import Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Costs:
    """Of each ablation; all (A,)."""

    lost: Replicates
    """Share of the extracted windows that are extracted no longer."""
    memory: Replicates
    """Rise of the suffix NLL of the extracted windows, nats/token."""
    matched: Replicates
    """Change of the share of their suffix tokens that come after the true ones before them."""
    others: Replicates
    """Rise of that of windows that are not extracted."""
    skill: Replicates
    """Rise of that of the windows by which skill is measured."""
    selective: Replicates
    """``memory`` minus ``skill``."""
    beyond_others: Replicates
    """``memory`` minus ``others``."""
    excess: Replicates
    """``memory`` beyond that of noise with the same rise of ``skill``; NaN beyond the strongest,
    and of noise itself."""
    excess_lost: Replicates
    """``lost`` beyond that of the same noise; NaN too where both lose all."""
    kept: Sequence[Estimate]
    """Share of the extracted windows that still are."""


def cost(found: Ablated, resamples: Resamples) -> Costs:
    """Return all figures; those of one group of windows come from the same resamples.

    ``resamples`` have a generator, so that those of different groups are independent.
    """
    noise = np.array([one.kind == "noise" for one in found.ablations])
    extracted, clusters = found.extracted, found.extracted.clusters
    lost_each = (extracted.exact[0] & ~extracted.exact).astype(np.float64)
    matched_each = extracted.matched - extracted.matched[:1]
    count = len(found.ablations)
    groups = _means(resamples, clusters, lost_each, extracted.rise, matched_each)
    lost, memory, matched = (
        groups.take(slice(start, start + count)) for start in range(0, 3 * count, count)
    )
    others = _means(resamples, found.others.clusters, found.others.rise)
    skill = _means(resamples, found.skill.clusters, found.skill.rise)
    unknown = noise | (skill.values > skill.values[noise].max(initial=0.0))

    def excess(of: Replicates, most: float = np.inf) -> Replicates:
        pairs = zip(of.samples, skill.samples, strict=True)
        samples = np.array([_excess(loss, rise, noise) for loss, rise in pairs])
        values = _excess(of.values, skill.values, noise)
        both = np.minimum(of.values, of.values - values) > most - 1e-9
        blank = unknown | both
        return Replicates(
            np.where(blank, np.nan, values), np.where(blank, np.nan, samples), of.confidence
        )

    return Costs(
        lost=lost,
        memory=memory,
        matched=matched,
        others=others,
        skill=skill,
        selective=memory.minus(skill),
        beyond_others=memory.minus(others),
        excess=excess(memory),
        excess_lost=excess(lost, most=1.0),
        kept=[resamples.rate(hits, clusters) for hits in extracted.exact],
    )


def _means(resamples: Resamples, clusters: Ints, *figures: Floats) -> Replicates:
    """Return the means over windows of figures (A,N), one set after another; NaN without any."""
    columns = np.concatenate(figures).T
    if len(columns):
        return resamples.means(columns, clusters)
    nothing = np.full((resamples.number, columns.shape[1]), np.nan)
    return Replicates(nothing[0], nothing, resamples.confidence)


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
