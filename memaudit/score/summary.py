"""Summary of an attack: its rates over samples, their intervals, and the comparisons.

Knows sample scores and cluster numbers. Knows an attack only by its name, and nothing of
thresholds. M stands for samples.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memaudit.config.settings import LADDER, AttackName, ScoreSettings
from memaudit.score import stats
from memaudit.score.resample import Resamples
from memaudit.score.samples import Arm, SampleScores, best_of
from memaudit.score.stats import Bools, Floats, Interval, Ints

ANY = "any"
"""Stands for all attacks on a model together: a sample that at least one of them extracts."""


@dataclass(frozen=True)
class Rate:
    """A share of samples, or of windows where a name says so, with its intervals."""

    k: int
    """Samples hit."""
    n: int
    """Samples scored."""
    estimate: float
    """k/n, fraction in [0,1]; NaN if nothing was scored."""
    interval: Interval
    """Exact (Clopper–Pearson), taking samples as independent. (0, 1) if n is 0."""
    clustered: Interval
    """Percentile bootstrap over clusters (`Resamples.clustered`). (0, 1) if n is 0."""
    confidence: float
    """Confidence level of both intervals."""


@dataclass(frozen=True)
class Difference:
    """Rate extracted from the data minus that from the controls, one attack."""

    estimate: float
    """Fraction in [-1,1]; NaN if either arm is empty."""
    interval: Interval
    """Interval over clusters of both arms (`stats.contrast`)."""
    p_value: float
    """Two-sided; below 1 - confidence if, and only if, the interval excludes 0."""


@dataclass(frozen=True)
class Lift:
    """Rate extracted by an attack minus that by ``none``, on the same samples."""

    estimate: float
    """Fraction in [-1,1]."""
    gained: int
    """Samples that the attack extracted and ``none`` did not."""
    lost: int
    """Samples that ``none`` extracted and the attack did not."""
    p_value: float
    """Exact McNemar test, two-sided, taking samples as independent."""
    clustered_p_value: float
    """Sign-flip permutation test over clusters, two-sided; that of the bootstrap if it is larger
    and its interval holds 0."""
    interval: Interval
    """Percentile bootstrap of the paired difference over clusters. Holds 0 if, and only if, the
    larger p-value is not below 1 - confidence."""


@dataclass(frozen=True)
class AttackSummary:
    """One row of the report: an attack, or `ANY`, over all samples that are not template alone."""

    attack: str
    extracted: Rate
    """Samples extracted: the headline, and what gates judge."""
    exact: Rate
    """Samples of which every audited token was extracted."""
    fractional: float
    """Mean fractional extraction, fraction in [0,1]; NaN if nothing was scored."""
    fractional_interval: Interval
    """Percentile bootstrap over clusters."""
    suffix_nll: float
    """Mean, nats/token; NaN if the attack has no model."""
    controls_extracted: Rate | None
    """Controls extracted; None without controls."""
    controls_exact: Rate | None
    """Controls of which every audited token was extracted; None without controls."""
    controls_fractional: float | None
    """Mean fractional extraction of the controls; None without controls."""
    control_clusters: int
    """Near-duplicate clusters of the controls; 0 without controls."""
    difference: Difference | None
    """Data minus controls; None without controls."""
    lift: Lift | None
    """Gain over ``none``; None for ``none`` itself, or if it did not run."""
    cluster_sizes: tuple[int, ...]
    """Samples of the data in each near-duplicate cluster."""


def attack_rng(seed: int, attack: AttackName) -> np.random.Generator:
    """Return the generator of an attack's resamples, which a stored run needs again."""
    return np.random.default_rng([seed, LADDER.index(attack)])


def summarise(
    attack: str,
    data: Arm,
    settings: ScoreSettings,
    rng: np.random.Generator,
    *,
    none: Arm | None = None,
    controls: Arm | None = None,
) -> AttackSummary:
    """Summarise one attack over the data and, if given, the controls.

    ``none`` is the attack of that name on the same samples in the same order, for the lift. ``rng``
    chooses the resamples.
    """
    extracted, exact = _rates(data, settings, rng)
    on_controls, controls_exact = (None, None)
    if controls is not None:
        on_controls, controls_exact = _rates(controls, settings, rng)
    return AttackSummary(
        attack=attack,
        extracted=extracted,
        exact=exact,
        fractional=_mean(data.scores.fractional),
        fractional_interval=_bootstrap(data.scores.fractional, data.clusters, settings, rng),
        suffix_nll=_mean(data.scores.suffix_nll),
        controls_extracted=on_controls,
        controls_exact=controls_exact,
        controls_fractional=_mean(controls.scores.fractional) if controls is not None else None,
        control_clusters=0 if controls is None else len(np.unique(controls.clusters)),
        difference=None if controls is None else _difference(data, controls, settings.confidence),
        lift=None if none is None else _lift(data, none.scores, settings, rng),
        cluster_sizes=tuple(np.unique(data.clusters, return_counts=True)[1].tolist()),
    )


def summarise_any(
    data: Mapping[AttackName, Arm],
    controls: Mapping[AttackName, Arm] | None,
    settings: ScoreSettings,
    seed: int,
) -> AttackSummary | None:
    """Summarise what at least one attack on the model gets; None if none ran.

    ``copy`` does not count. The resamples are those of the attack that extracts most, so that
    equal hits have equal intervals. controls: None without controls.
    """
    asked = [name for name in data if name != "copy"]
    if not asked:
        return None
    most = max(asked, key=lambda name: np.count_nonzero(data[name].scores.extracted))

    def best(arms: Mapping[AttackName, Arm]) -> Arm:
        return Arm(best_of([arms[name].scores for name in asked]), arms[most].clusters)

    on_controls = None if controls is None else best(controls)
    return summarise(ANY, best(data), settings, attack_rng(seed, most), controls=on_controls)


def _rates(arm: Arm, settings: ScoreSettings, rng: np.random.Generator) -> tuple[Rate, Rate]:
    """Return the rates extracted and exact. Equal hits have equal intervals."""
    scores, clusters = arm.scores, arm.clusters
    again = copy.deepcopy(rng)
    extracted = rate_of(scores.extracted, clusters, settings, rng)
    if np.array_equal(scores.extracted, scores.exact):
        return extracted, extracted
    return extracted, rate_of(scores.exact, clusters, settings, again)


def rate_of(hits: Bools, clusters: Ints, settings: ScoreSettings, rng: np.random.Generator) -> Rate:
    """Return the share of hits (M,); ``rng`` chooses the resamples."""
    k, n = int(np.count_nonzero(hits)), len(hits)
    return Rate(
        k=k,
        n=n,
        estimate=k / n if n else float("nan"),
        interval=stats.clopper_pearson(k, n, settings.confidence),
        clustered=Resamples.of(settings, rng).clustered(hits, clusters),
        confidence=settings.confidence,
    )


def _difference(data: Arm, controls: Arm, confidence: float) -> Difference:
    first, second = (
        stats.Clustered(arm.scores.extracted, arm.clusters) for arm in (data, controls)
    )
    contrast = stats.contrast(first, second, confidence)
    rates = [_mean(arm.hits.astype(np.float64)) for arm in (first, second)]
    return Difference(rates[0] - rates[1], contrast.interval, contrast.p_value)


def _lift(data: Arm, none: SampleScores, settings: ScoreSettings, rng: np.random.Generator) -> Lift:
    hits, none_hits = data.scores.extracted, none.extracted
    paired = stats.paired_exact(hits, none_hits)
    by_cluster = stats.paired_clustered(hits, none_hits, data.clusters, settings.bootstrap, rng)
    change = hits.astype(np.float64) - none_hits
    interval = Interval(-1.0, 1.0)
    if len(change):
        means = Resamples.of(settings, rng).means(change[:, None], data.clusters)
        interval = means.interval()
        if interval.low <= 0 <= interval.high:
            by_cluster = max(by_cluster, means.p_value())
        elif max(by_cluster, paired.p_value) >= 1 - settings.confidence:
            interval = Interval(min(interval.low, 0.0), max(interval.high, 0.0))
    return Lift(
        estimate=_mean(change),
        gained=paired.gained,
        lost=paired.lost,
        p_value=paired.p_value,
        clustered_p_value=by_cluster,
        interval=interval,
    )


def _bootstrap(
    values: npt.NDArray[np.generic],
    clusters: Ints,
    settings: ScoreSettings,
    rng: np.random.Generator,
) -> Interval:
    """Return the cluster bootstrap interval of the mean; (0, 1) without values."""
    if not len(values):
        return Interval(0.0, 1.0)
    return Resamples.of(settings, rng).bootstrap(values, clusters)


def _mean(values: Floats) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
