"""Small random perturbations of a model's weights, each undone to the last bit, and their effect.

Knows passes, parameters, devices and noise. Knows nothing of groups of windows.

Duan et al. 2024 (arXiv 2406.14549, section on recovering latent memories) add Gaussian noise to
all weights and test whether a sequence comes out that did not before. Their noise has one size
for all weights; here it is relative to the size of each weight matrix, in which models differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.journal import Advance
from memaudit.attack.verification import NotFinite
from memaudit.diagnose.latent.scores import read_plain
from memaudit.diagnose.subject import Subject
from memaudit.errors import TargetError, UsageError
from memaudit.score.stats import Bools, Floats, Ints
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.placement import base_of
from memaudit.target.quantization import is_packed
from memaudit.target.softprompt_check import architecture_of

BEST, MEAN = "perturbed: least NLL", "perturbed: mean NLL"
RISE, RELATIVE_RISE = "perturbed: rise of NLL", "perturbed: rise, share of NLL"
BEST_MATCHED = "perturbed: most tokens before a miss"
PERTURBED = (BEST, MEAN, RISE, RELATIVE_RISE, BEST_MATCHED)
"""Scores from perturbations."""
_MIN_NLL = 1e-6
"""Lower bound of the NLL in a ratio, nats/token."""
_REMEDY = "diagnose it without perturbed weights (--set draws=0)"


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


class Perturbation:
    """Noise on the weight matrices of a model, added and removed again.

    Weight matrices are parameters of two dimensions or more, including the embedding; scales and
    shifts of norms are not. A copy of their values stays in main memory.
    """

    def __init__(self, checkpoint: Checkpoint, strength: float, seed: Sequence[int]) -> None:
        """Copy the weights; raise TargetError, naming the class, if noise cannot be added to them.

        strength: standard deviation of the noise as a share of each matrix' root mean square.
        """
        self._matrices = _matrices(checkpoint)
        self._strength = strength
        self._seed = tuple(seed)
        self._originals = [weight.detach().to("cpu", copy=True) for weight in self._matrices]
        self._spread = [
            float(weight.detach().float().pow(2).mean().sqrt()) * strength
            for weight in self._matrices
        ]

    @contextmanager
    def apply(self, number: int) -> Iterator[None]:
        """Add noise number ``number``, and restore the weights on exit, even after an error.

        A number gives the same noise each time on the same kind of device.
        """
        try:
            self._add(number)
            yield
        finally:
            self._restore()

    @torch.no_grad()
    def _add(self, number: int) -> None:
        rngs: dict[torch.device, torch.Generator] = {}
        for weight, spread in zip(self._matrices, self._spread, strict=True):
            device = weight.device
            if device not in rngs:
                rngs[device] = torch.Generator(device).manual_seed(self._mixed(number))
            noise = torch.randn(
                weight.shape, generator=rngs[device], device=device, dtype=weight.dtype
            )
            weight.add_(noise, alpha=spread)

    @torch.no_grad()
    def _restore(self) -> None:
        for weight, values in zip(self._matrices, self._originals, strict=True):
            weight.copy_(values)

    def _mixed(self, number: int) -> int:
        """Return the seed of noise number ``number``."""
        return int(np.random.SeedSequence([*self._seed, number]).generate_state(1)[0])


def _matrices(checkpoint: Checkpoint) -> list[Tensor]:
    """Return the weights that noise is added to, each once."""
    model = base_of(checkpoint.model)
    name = f"{checkpoint.name}: {architecture_of(checkpoint)}"
    if checkpoint.is_packed or any(map(is_packed, model.parameters())):
        raise TargetError(f"{name} has packed weights; noise cannot be added to them; {_REMEDY}")
    matrices = [weight for weight in model.parameters() if weight.dim() >= 2]
    if checkpoint.is_offloaded:
        raise TargetError(f"{name} has offloaded weights; {_REMEDY}")
    if not matrices or not all(weight.is_floating_point() for weight in matrices):
        raise TargetError(f"{name} has no floating-point weight matrices; {_REMEDY}")
    return matrices


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
