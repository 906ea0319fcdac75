"""Small random perturbations of a model's weights, each undone to the last bit.

Knows parameters, devices and noise. Knows nothing of windows or scores.

Duan et al. 2024 (arXiv 2406.14549, section on recovering latent memories) add Gaussian noise to
all weights and look whether a sequence that did not come out does then. There the noise is of one
size for all; here it goes by the size of each weight matrix, since models differ in it.
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

_INSTEAD = "look at it without perturbed weights (--set draws=0)"


class Perturbation:
    """Adds noise to the weight matrices of a model, draw by draw, and takes it off again.

    Weights are what is neither a scale nor a shift of a norm: parameters of two dimensions or
    more, the embedding among them. Their values are kept in main memory meanwhile.
    """

    def __init__(self, checkpoint: Checkpoint, strength: float, seed: Sequence[int]) -> None:
        """Raises TargetError for weights that no number can be added to, by the class's name.

        strength: standard deviation of the noise as a share of each matrix' root mean square.
        """
        self._matrices = _matrices(checkpoint)
        self._strength = strength
        self._seed = tuple(seed)
        self._kept = [weight.detach().to("cpu", copy=True) for weight in self._matrices]
        self._spread = [_root_mean_square(weight) * strength for weight in self._matrices]

    @contextmanager
    def draw(self, number: int) -> Iterator[None]:
        """The model with noise of this number; as it was afterwards, however it ends.

        The noise of a number is the same each time on the same kind of device.
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
            where = weight.device
            if where not in rngs:
                rngs[where] = torch.Generator(where).manual_seed(self._mixed(number))
            noise = torch.randn(
                weight.shape, generator=rngs[where], device=where, dtype=weight.dtype
            )
            weight.add_(noise, alpha=spread)

    @torch.no_grad()
    def _restore(self) -> None:
        for weight, kept in zip(self._matrices, self._kept, strict=True):
            weight.copy_(kept)

    def _mixed(self, number: int) -> int:
        """One seed of several."""
        return int(np.random.SeedSequence([*self._seed, number]).generate_state(1)[0])


def _matrices(checkpoint: Checkpoint) -> list[Tensor]:
    """The weights that noise is added to, each once."""
    model = base_of(checkpoint.model)
    name = f"{checkpoint.name}: {architecture_of(checkpoint)}"
    if checkpoint.is_packed or any(map(is_packed, model.parameters())):
        raise TargetError(f"{name} has packed weights, which no noise can be added to; {_INSTEAD}")
    found = [weight for weight in model.parameters() if weight.dim() >= 2]
    if checkpoint.is_offloaded:
        raise TargetError(f"{name} has weights that are fetched for each pass; {_INSTEAD}")
    if not found or not all(weight.is_floating_point() for weight in found):
        raise TargetError(f"{name} has no weight matrices of plain numbers; {_INSTEAD}")
    return found


def _root_mean_square(weight: Tensor) -> float:
    return float(weight.detach().float().pow(2).mean().sqrt())
