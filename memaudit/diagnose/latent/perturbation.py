"""Small random perturbations of a model's weights, each undone to the last bit.

Knows parameters, devices and noise. Knows nothing of windows or scores.

Duan et al. 2024 (arXiv 2406.14549, section on recovering latent memories) add Gaussian noise to
all weights and test whether a sequence comes out that did not before. Their noise has one size
for all weights; here it is relative to the size of each weight matrix, in which models differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from memaudit.errors import TargetError
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.placement import base_of
from memaudit.target.quantization import is_packed
from memaudit.target.softprompt_check import architecture_of

_REMEDY = "diagnose it without perturbed weights (--set draws=0)"


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
        self._spread = [_root_mean_square(weight) * strength for weight in self._matrices]

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


def _root_mean_square(weight: Tensor) -> float:
    return float(weight.detach().float().pow(2).mean().sqrt())
