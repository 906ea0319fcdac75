"""What comes out, and how likely suffixes become, under small perturbations of the weights.

Knows passes and perturbations. Knows nothing of how scores are judged.
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
from memaudit.diagnose.latent.population import Left, Population
from memaudit.diagnose.latent.scores import read_plain
from memaudit.diagnose.subject import Subject, draw
from memaudit.errors import UsageError
from memaudit.score.stats import Bools, Floats, Ints

BEST, MEAN = "perturbed: least NLL", "perturbed: mean NLL"
RISE, RELATIVE_RISE = "perturbed: rise of NLL", "perturbed: rise, share of NLL"
BEST_MATCHED = "perturbed: most tokens before a miss"
SHAKEN = (BEST, MEAN, RISE, RELATIVE_RISE, BEST_MATCHED)
"""What perturbations say."""
_LEAST_NLL = 1e-6
"""nats/token."""


@dataclass(frozen=True)
class Noise:
    """How the weights are perturbed."""

    strength: float
    """Standard deviation, as a share of each weight matrix' root mean square."""
    draws: int
    """R, at least 1."""
    seed: int


@dataclass(frozen=True, eq=False)
class Shaken:
    """What R perturbations did to windows (n,)."""

    nll: Floats
    """(R,n) suffix NLL under each."""
    matched: Ints
    """(R,n) tokens before the first mismatch."""
    before: Floats
    """(n,) suffix NLL of the model as it is."""
    suffix_tokens: int

    @property
    def exact(self) -> Bools:
        """(R,n) whether all S tokens come out."""
        return np.asarray(self.matched == self.suffix_tokens)

    def take(self, index: Bools | slice) -> Shaken:
        """The windows at ``index``."""
        nll, matched = self.nll[:, index], self.matched[:, index]
        return replace(self, nll=nll, matched=matched, before=self.before[index])


@dataclass(frozen=True, eq=False)
class Trial:
    """The windows that were drawn, with their scores, and those that ``none`` extracts anyway."""

    drawn: Population
    """With the scores of the perturbations beside the others."""
    shaken: Shaken
    """Of ``drawn``."""
    extracted: Shaken
    """Of windows of the data that ``none`` extracts."""
    extracted_clusters: Ints


def run_trial(
    subject: Subject,
    left: Left,
    everything: Population,
    noise: Noise,
    most: int,
    progress: Progress,
) -> Trial:
    """Perturb the model and look at ``most`` windows at most of each group.

    Groups: what is known to be hidden, by another attack or another run; other windows of the
    data; controls; windows that ``none`` extracts.
    """
    rng = np.random.default_rng([noise.seed, 1])
    rows, weights = _drawn(everything, most, rng)
    extracted = subject.data.take(draw(subject.data.extracted, most, rng))
    ids = np.concatenate([left.ids[rows], extracted.ids])
    total = len(ids) * (1 + noise.draws)
    with progress.stage("latent: perturbed weights", total) as advance:
        shaken = shake(subject, ids, noise, advance)
    mine = shaken.take(slice(0, len(rows)))
    drawn = replace(everything.take(rows), weights=weights)
    drawn = replace(drawn, scores={**drawn.scores, **shaken_scores(mine)})
    return Trial(drawn, mine, shaken.take(slice(len(rows), None)), extracted.clusters)


def _drawn(everything: Population, most: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Rows of the windows that are looked at, in order, and how many windows each stands for."""
    hidden = everything.hidden & ~everything.control
    if everything.known is not None:
        hidden |= everything.known
    rows, weights = [], []
    for group in (hidden, ~hidden & ~everything.control, everything.control):
        some = draw(group, most, rng)
        rows.append(some)
        weights.append(np.full(len(some), group.sum() / max(1, len(some))))
    order = np.argsort(np.concatenate(rows))
    return np.concatenate(rows)[order], np.concatenate(weights)[order]


def shake(subject: Subject, ids: NDArray[np.int32], noise: Noise, advance: Advance) -> Shaken:
    """Look at windows of ids (n,P+S) under each perturbation; the model is then as it was.

    Raises:
        TargetError: its weights cannot be perturbed.
        UsageError: a perturbation is so large that logits are no numbers.
    """
    passes = subject.passes()
    before = passes.read(ids, read_plain, advance)["nll"]
    # Not before a first pass: some models (RWKV) rescale weights of their own in it.
    perturbation = Perturbation(subject.checkpoint, noise.strength, [noise.seed, 2])
    found = []
    for number in range(noise.draws):
        with perturbation.draw(number):
            try:
                found.append(passes.read(ids, read_plain, advance))
            except NotFinite:
                raise UsageError(
                    f"--set strength={noise.strength:g}: weights perturbed so much give logits "
                    "that are no numbers; use a smaller one"
                ) from None
    return Shaken(
        nll=np.array([one["nll"] for one in found]),
        matched=np.array([one["matched"] for one in found], dtype=np.int64),
        before=before,
        suffix_tokens=subject.suffix_tokens,
    )


def shaken_scores(shaken: Shaken) -> Mapping[str, Floats]:
    """What the perturbations say of each window, the higher the better remembered.

    Rise of the NLL: a mean over perturbations measures the curvature of the loss in the weights, by
    analogy with that in the input, which Garg et al. 2023 (arXiv 2307.05831) find higher at what
    was memorized. It is also told as a share of the NLL, since a suffix that is all but certain has
    little to rise from.
    """
    mean = shaken.nll.mean(axis=0)
    return {
        BEST: -shaken.nll.min(axis=0),
        MEAN: -mean,
        RISE: mean - shaken.before,
        RELATIVE_RISE: mean / np.maximum(shaken.before, _LEAST_NLL) - 1,
        BEST_MATCHED: shaken.matched.max(axis=0).astype(np.float64),
    }
