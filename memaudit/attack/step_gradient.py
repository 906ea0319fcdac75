"""The gradient of one tuning step, summed over passes: by one process, or by several.

Knows passes, memory and processes. Knows nothing of optimizers, epochs or ``select``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from memaudit.attack.memory import MemoryFound, let_go
from memaudit.attack.prompts import FittedPrompt
from memaudit.attack.tuning_passes import TuningPasses
from memaudit.config.settings import TuningSettings
from memaudit.distributed import Processes
from memaudit.errors import RunError
from memaudit.system.memory import FAILED_ALLOCATION, is_out_of_memory

CPU_PASS = 8
"""Windows per pass on a CPU where the settings do not say: few enough for two processes to share
a step of 16, and a step of one process takes 1.06 times as long as with all 16 in a pass (7M
parameters; 1.33 times with 4)."""


class StepGradient:
    """Gradients of a prompt's parameters for one target and the settings of one fit."""

    def __init__(
        self,
        passes: TuningPasses,
        settings: TuningSettings,
        processes: Processes,
        memory: MemoryFound,
    ) -> None:
        self._passes = passes
        self._settings = settings
        self._processes = processes
        self._memory = memory
        memory.plan("tuning", min(settings.batch_size, self._per_pass(settings.batch_size)))
        if memory.recomputes:
            passes.recompute()
        memory.recomputes = passes.recomputes

    def put(self, prompt: FittedPrompt, ids: Tensor) -> Tensor:
        """Set every parameter's gradient of the mean loss of ids (B,P+S); returns their summed
        NLL, nats/token.

        The passes are added in their order, so that the gradient does not depend on how many
        processes there are. Raises RunError where one window does not fit the memory.
        """
        parameters = list(prompt.parameters())
        parts = torch.split(ids, self._per_pass(len(ids)))
        mine = (self._one_pass(prompt, part, len(ids)) for part in self._processes.shard(parts))
        size = sum(parameter.numel() for parameter in parameters)
        zero = torch.zeros(size + 1, device=ids.device)
        total = self._processes.sum_in_order(mine, zero, len(parts))
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.grad = total[start:end].view_as(parameter)
            start = end
        return total[size]

    def _per_pass(self, windows: int) -> int:
        if self._settings.windows_per_pass is not None:
            return self._settings.windows_per_pass
        if self._passes.device.type == "cpu":
            return CPU_PASS
        return math.ceil(windows / self._processes.size)  # a GPU wants all it can get

    def _one_pass(self, prompt: FittedPrompt, ids: Tensor, whole: int) -> Tensor:
        """Gradients of the parameters and summed NLL, one after the other, in as many smaller
        passes as memory asks for.
        """
        while True:
            prompt.zero_grad(set_to_none=True)
            size = self._memory.tuning.fits(len(ids))
            try:
                total = torch.zeros(1, device=ids.device)
                for part in torch.split(ids, size):
                    nll = self._passes.window_nll(prompt, part)
                    loss = window_weighted(nll, self._settings.focus).sum() / whole
                    torch.autograd.backward(loss)
                    total += nll.detach().sum()
                self._memory.tuning.passed()
                return torch.cat([*_flat_gradients(prompt), total])
            except FAILED_ALLOCATION as error:
                if not is_out_of_memory(error):
                    raise
                if size > 1:
                    self._memory.tuning.shrink()
                elif not self._passes.recompute():
                    raise RunError(
                        "out of memory tuning on a single window; use a smaller window "
                        "(--prefix-tokens, --suffix-tokens) or fewer virtual tokens"
                    ) from error
                else:
                    self._memory.recomputes = True
                let_go(error)


def _flat_gradients(prompt: FittedPrompt) -> Iterator[Tensor]:
    for parameter in prompt.parameters():
        gradient = parameter.grad
        yield (torch.zeros_like(parameter) if gradient is None else gradient).flatten()


def window_weighted(nll: Tensor, focus: float) -> Tensor:
    """(B,) losses whose gradient is that of the NLL, each window weighted by exp(-focus*NLL).

    Far the most windows are not memorized and no prompt brings them out; unweighted, they
    decide where the prompt goes. This is minus the suffix likelihood to the power focus/S.
    """
    if focus == 0:
        return nll
    return nll * torch.exp(-focus * nll.detach())
