"""Scores of a fine-tuned model paired with those of its reference: known before, or leaked.

Knows the scores of one attack on the same samples from two models, the target and the reference.
Knows nothing of what fine-tuning is or how models are loaded. M stands for samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.config.settings import ScoreSettings
from memaudit.score import stats
from memaudit.score.resample import Resamples
from memaudit.score.samples import SampleScores
from memaudit.score.stats import Bools, Floats, Interval, Ints
from memaudit.score.summary import ANY, Rate, rate_of

_PAIRED = 100
"""Seed of the paired resamples; larger than the seeds of single attacks."""


@dataclass(frozen=True)
class NllChange:
    """Mean suffix NLL of the target minus that of the reference, nats/token, paired by sample."""

    target: float
    """Mean of the target. All four fields are NaN if no sample has a finite NLL from both."""
    reference: float
    """Mean of the reference."""
    change: float
    """Below 0 if the target finds the suffixes likelier."""
    interval: Interval
    """Percentile bootstrap of the change over clusters."""


@dataclass(frozen=True)
class Origin:
    """One attack, or `ANY`, on M samples of both models; each sample is counted in one of four."""

    attack: str
    known: int
    """Extracted from both: known before the fine-tuning."""
    leaked: Rate
    """Extracted from the target alone: leaked by the fine-tuning. A share of all M samples."""
    forgotten: int
    """Extracted from the reference alone."""
    neither: int
    p_value: float
    """Exact McNemar test of leaked against forgotten, two-sided, samples as independent."""
    clustered_p_value: float
    """Sign-flip permutation test of leaked against forgotten over near-duplicate clusters,
    two-sided."""
    nll: NllChange
    """For `ANY`, from the lowest NLL that any attack gets from each model."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Scores of one attack on the same M samples of both models."""

    attack: str
    target: SampleScores
    reference: SampleScores


def origins(
    pairs: Sequence[Pair], clusters: Ints, settings: ScoreSettings, seed: Sequence[int]
) -> tuple[Origin, ...]:
    """Return the origin of what each attack extracts, in the order given, then that of `ANY`.

    clusters: (M,) near-duplicate cluster of each sample. Empty without pairs.
    """
    if not pairs:
        return ()
    hits = {pair.attack: (pair.target.extracted, pair.reference.extracted) for pair in pairs}
    nll = {pair.attack: (pair.target.suffix_nll, pair.reference.suffix_nll) for pair in pairs}
    hits[ANY] = (_either(hits, 0), _either(hits, 1))
    nll[ANY] = (_least(nll, 0), _least(nll, 1))
    return tuple(
        _origin(attack, hits[attack], nll[attack], clusters, settings, [*seed, place])
        for place, attack in enumerate(hits)
    )


def pair_seed(seed: int, part: str) -> list[int]:
    """Return the seed of `origins` for ``data`` or ``controls``, which a stored run needs again."""
    return [seed, _PAIRED, int(part == "controls")]


def _origin(
    attack: str,
    hits: tuple[Bools, Bools],
    nll: tuple[Floats, Floats],
    clusters: Ints,
    settings: ScoreSettings,
    seed: list[int],
) -> Origin:
    rng = np.random.default_rng(seed)
    target, reference = hits
    paired = stats.paired_exact(target, reference)
    return Origin(
        attack=attack,
        known=int(np.count_nonzero(target & reference)),
        leaked=rate_of(target & ~reference, clusters, settings, rng),
        forgotten=paired.lost,
        neither=int(np.count_nonzero(~target & ~reference)),
        p_value=paired.p_value,
        clustered_p_value=stats.paired_clustered(
            target, reference, clusters, settings.bootstrap, rng
        ),
        nll=_nll_change(*nll, clusters, settings, rng),
    )


def _nll_change(
    target: Floats,
    reference: Floats,
    clusters: Ints,
    settings: ScoreSettings,
    rng: np.random.Generator,
) -> NllChange:
    both = np.isfinite(target) & np.isfinite(reference)
    if not both.any():
        nan = float("nan")
        return NllChange(nan, nan, nan, Interval(nan, nan))
    change = target[both] - reference[both]
    interval = Resamples.of(settings, rng).bootstrap(change, clusters[both])
    before, after = float(np.mean(reference[both])), float(np.mean(target[both]))
    return NllChange(after, before, float(np.mean(change)), interval)


def _either(hits: Mapping[str, tuple[Bools, Bools]], side: int) -> Bools:
    return np.asarray(np.any([pair[side] for pair in hits.values()], axis=0))


def _least(nll: Mapping[str, tuple[Floats, Floats]], side: int) -> Floats:
    return np.asarray(np.fmin.reduce([pair[side] for pair in nll.values()]))
