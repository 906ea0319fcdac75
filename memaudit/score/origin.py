"""Scores of a fine-tuned model paired with those of its reference: known before, or leaked.

Knows the scores of one attack on the same windows from two models, the target and the reference.
Knows nothing of what fine-tuning is or how models are loaded. N stands for windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from memaudit.config.settings import ScoreSettings
from memaudit.score import stats
from memaudit.score.resample import Resamples
from memaudit.score.scores import Rate, WindowScores, rate_of
from memaudit.score.stats import Bools, Floats, Interval, Ints

_PAIRED = 100
"""Seed of the paired resamples; larger than the seeds of single attacks."""
ANY = "any"
"""Stands for all attacks on a model together: a window that at least one of them extracts."""


@dataclass(frozen=True)
class NllChange:
    """Mean suffix NLL of the target minus that of the reference, nats/token, paired by window."""

    target: float
    """Mean of the target. All four fields are NaN if no window has a finite NLL from both."""
    reference: float
    """Mean of the reference."""
    change: float
    """Below 0 if the target finds the suffixes likelier."""
    interval: Interval
    """Percentile bootstrap of the change over clusters."""


@dataclass(frozen=True)
class Origin:
    """One attack, or `ANY`, on N windows of both models; each window is counted in one of four."""

    attack: str
    known: int
    """Extracted from both: known before the fine-tuning."""
    leaked: Rate
    """Extracted from the target alone: leaked by the fine-tuning. A share of all N windows."""
    forgotten: int
    """Extracted from the reference alone."""
    neither: int
    p_value: float
    """Exact McNemar test of leaked against forgotten, two-sided, windows as independent."""
    clustered_p_value: float
    """Sign-flip permutation test of leaked against forgotten over near-duplicate clusters,
    two-sided."""
    nll: NllChange
    """For `ANY`, from the lowest NLL that any attack gets from each model."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Scores of one attack on the same N windows of both models."""

    attack: str
    target: WindowScores
    reference: WindowScores


def origins(
    pairs: Sequence[Pair], clusters: Ints, settings: ScoreSettings, seed: Sequence[int]
) -> tuple[Origin, ...]:
    """Return the origin of what each attack extracts, in the order given, then that of `ANY`.

    clusters: (N,) near-duplicate cluster of each window. Empty without pairs.
    """
    if not pairs:
        return ()
    exact = {pair.attack: (pair.target.exact, pair.reference.exact) for pair in pairs}
    nll = {pair.attack: (pair.target.suffix_nll, pair.reference.suffix_nll) for pair in pairs}
    exact[ANY] = (_either(exact, 0), _either(exact, 1))
    nll[ANY] = (_least(nll, 0), _least(nll, 1))
    return tuple(
        _origin(attack, exact[attack], nll[attack], clusters, settings, [*seed, place])
        for place, attack in enumerate(exact)
    )


def pair_seed(seed: int, part: str) -> list[int]:
    """Return the seed of `origins` for ``data`` or ``controls``, which a stored run needs again."""
    return [seed, _PAIRED, int(part == "controls")]


def _origin(
    attack: str,
    exact: tuple[Bools, Bools],
    nll: tuple[Floats, Floats],
    clusters: Ints,
    settings: ScoreSettings,
    seed: list[int],
) -> Origin:
    rng = np.random.default_rng(seed)
    target, reference = exact
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


def _either(exact: Mapping[str, tuple[Bools, Bools]], side: int) -> Bools:
    return np.asarray(np.any([pair[side] for pair in exact.values()], axis=0))


def _least(nll: Mapping[str, tuple[Floats, Floats]], side: int) -> Floats:
    return np.asarray(np.fmin.reduce([pair[side] for pair in nll.values()]))
