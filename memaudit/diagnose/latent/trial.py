"""Effect of small perturbations of the weights on windows.

Knows passes and perturbations. Must not know how scores are judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from memaudit.attack.campaign import Progress
from memaudit.attack.extraction import Advance
from memaudit.attack.verification import NotFinite
from memaudit.diagnose.latent.perturbation import Perturbation
from memaudit.diagnose.latent.population import Population, Unextracted
from memaudit.diagnose.latent.scores import read_plain
from memaudit.diagnose.subject import Subject, draw
from memaudit.errors import UsageError
from memaudit.score.stats import Bools, Floats, Ints

BEST, MEAN = "perturbed: least NLL", "perturbed: mean NLL"
RISE, RELATIVE_RISE = "perturbed: rise of NLL", "perturbed: rise, share of NLL"
BEST_MATCHED = "perturbed: most tokens before a miss"
PERTURBED = (BEST, MEAN, RISE, RELATIVE_RISE, BEST_MATCHED)
"""Scores from perturbations."""
_MIN_NLL = 1e-6
"""Lower bound of the NLL in a ratio, nats/token."""


@dataclass(frozen=True)
class Noise:
    """Noise on the weights."""

    strength: float
    """Standard deviation, as a share of each weight matrix' root mean square."""
    draws: int
    """R, at least 1."""
    seed: int


@dataclass(frozen=True, eq=False)
class Perturbed:
    """Figures of n windows with each of R perturbations."""

    nll: Floats
    """(R,n) suffix NLL."""
    matched: Ints
    """(R,n) tokens before the first mismatch."""
    before: Floats
    """(n,) suffix NLL of the intact model."""
    suffix_tokens: int

    @property
    def exact(self) -> Bools:
        """(R,n) whether all S tokens come out."""
        return np.asarray(self.matched == self.suffix_tokens)

    def take(self, index: Bools | slice) -> Perturbed:
        """Return the windows at ``index``."""
        nll, matched = self.nll[:, index], self.matched[:, index]
        return replace(self, nll=nll, matched=matched, before=self.before[index])


@dataclass(frozen=True, eq=False)
class Trial:
    """Effect of the perturbations on sampled windows."""

    sampled: Population
    """Sampled windows that ``none`` does not extract, with all scores."""
    perturbed: Perturbed
    """Figures of ``sampled``."""
    extracted: Perturbed
    """Figures of windows of the data that ``none`` extracts."""
    extracted_clusters: Ints


def run_trial(
    subject: Subject,
    unextracted: Unextracted,
    population: Population,
    noise: Noise,
    limit: int,
    progress: Progress,
) -> Trial:
    """Perturb the model and read at most ``limit`` windows of each group.

    Groups: windows known to be hidden, by another attack or another run; other windows of the
    data; controls; windows that ``none`` extracts.
    """
    rng = np.random.default_rng([noise.seed, 1])
    rows, weights = _sample(population, limit, rng)
    extracted = subject.data.take(draw(subject.data.extracted, limit, rng))
    ids = np.concatenate([unextracted.ids[rows], extracted.ids])
    total = len(ids) * (1 + noise.draws)
    with progress.stage("latent: perturbed weights", total) as advance:
        perturbed = perturb(subject, ids, noise, advance)
    own = perturbed.take(slice(0, len(rows)))
    sampled = replace(population.take(rows), weights=weights)
    sampled = replace(sampled, scores={**sampled.scores, **perturbation_scores(own)})
    return Trial(sampled, own, perturbed.take(slice(len(rows), None)), extracted.clusters)


def _sample(population: Population, limit: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Sample rows of each group, in order, and the number of windows that each represents."""
    hidden = population.hidden & ~population.control
    if population.known is not None:
        hidden |= population.known
    rows, weights = [], []
    for group in (hidden, ~hidden & ~population.control, population.control):
        sampled = draw(group, limit, rng)
        rows.append(sampled)
        weights.append(np.full(len(sampled), group.sum() / max(1, len(sampled))))
    order = np.argsort(np.concatenate(rows))
    return np.concatenate(rows)[order], np.concatenate(weights)[order]


def perturb(subject: Subject, ids: NDArray[np.int32], noise: Noise, advance: Advance) -> Perturbed:
    """Read windows of ids (n,P+S) with each perturbation, and restore the model.

    Raises:
        TargetError: the weights cannot be perturbed.
        UsageError: a perturbation is so large that logits are not finite.
    """
    passes = subject.passes()
    before = passes.read(ids, read_plain, advance)["nll"]
    # Only after a first pass, in which some models (RWKV) rescale their weights.
    perturbation = Perturbation(subject.checkpoint, noise.strength, [noise.seed, 2])
    figures = []
    for number in range(noise.draws):
        with perturbation.apply(number):
            try:
                figures.append(passes.read(ids, read_plain, advance))
            except NotFinite:
                raise UsageError(
                    f"--set strength={noise.strength:g}: the perturbed weights give logits that "
                    "are not finite; use a smaller strength"
                ) from None
    return Perturbed(
        nll=np.array([read["nll"] for read in figures]),
        matched=np.array([read["matched"] for read in figures], dtype=np.int64),
        before=before,
        suffix_tokens=subject.suffix_tokens,
    )


def perturbation_scores(perturbed: Perturbed) -> Mapping[str, Floats]:
    """Score each window by the perturbations, higher for better remembered.

    Rise of the NLL: a mean over perturbations measures the curvature of the loss in the weights, by
    analogy with that in the input, which Garg et al. 2023 (arXiv 2307.05831) find higher for
    memorized text. The rise as a share of the NLL is a score too, since the NLL of a nearly certain
    suffix starts low.
    """
    mean = perturbed.nll.mean(axis=0)
    return {
        BEST: -perturbed.nll.min(axis=0),
        MEAN: -mean,
        RISE: mean - perturbed.before,
        RELATIVE_RISE: mean / np.maximum(perturbed.before, _MIN_NLL) - 1,
        BEST_MATCHED: perturbed.matched.max(axis=0).astype(np.float64),
    }
