"""Fits a soft prompt on ``fit`` and keeps the state that does best on ``select``.

Knows the loss, the optimizer and the schedule. Never sees a window of ``audit``: it is handed
the ids of the other two parts and nothing else. The target gets no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.extraction import Extractor
from memaudit.attack.fit_record import NO_PROMPT, Epoch, FitRecord
from memaudit.attack.memory import let_go
from memaudit.attack.prompts import FittedPrompt, NoPrompt, SoftPrompt
from memaudit.attack.tuning_passes import TuningPasses
from memaudit.config import TuningSettings
from memaudit.errors import RunError
from memaudit.out_of_memory import FAILED_ALLOCATION, is_out_of_memory
from memaudit.target.checkpoint import Checkpoint

Advance = Callable[[int], None]


class SelectScore(NamedTuple):
    """How a prompt does on ``select``; larger is better, compared in this order."""

    exact: int
    """Windows extracted exactly."""
    likelihood: float
    """Mean of exp(-NLL): tells prompts apart that extract equally many."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted soft prompt and how it came about."""

    prompt: SoftPrompt
    """What audits: the state of the chosen epoch, or NoPrompt where every state lost to it."""
    fitted: FittedPrompt
    """The trained module in the state of its best epoch, whether or not it was chosen."""
    record: FitRecord
    """The figures, without the weights."""


@dataclass(frozen=True, eq=False)
class TuningData:
    """The windows one fit may see."""

    fit_ids: NDArray[np.int32]
    """(N,P+S)."""
    select_ids: NDArray[np.int32]
    """(M,P+S)."""


class Tuner:
    """Fits prompts for one target and one shape of windows."""

    def __init__(
        self, checkpoint: Checkpoint, extractor: Extractor, settings: TuningSettings
    ) -> None:
        self.checkpoint = checkpoint
        self.extractor = extractor
        self.settings = settings
        self.memory = extractor.memory  # what an earlier fit ran into
        self.memory.plan("tuning", settings.batch_size)
        self._backoff = self.memory.tuning
        self.passes = TuningPasses(checkpoint, extractor.prefix_tokens, settings)
        if self.memory.recomputes:
            self.passes.recompute()
        self.memory.recomputes = self.passes.recomputes

    def fit(
        self,
        prompt: FittedPrompt,
        data: TuningData,
        rng: np.random.Generator,
        advance: Advance = lambda done: None,
    ) -> Fit:
        """Train ``prompt`` in place and return it in its best state.

        advance is called with the number of fit windows just trained on. Raises RunError for a
        non-finite loss, or where one window does not fit the memory.
        """
        settings = self.settings
        optimizer = torch.optim.AdamW(
            prompt.parameter_groups(), weight_decay=settings.weight_decay, fused=True
        )
        epochs = settings.epochs_for(len(data.fit_ids))
        patience = settings.patience_for(len(data.fit_ids))
        steps = math.ceil(len(data.fit_ids) / settings.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor(step, steps * epochs, settings)
        )
        ids = torch.as_tensor(data.fit_ids, dtype=torch.long, device=self.checkpoint.device)
        choice = _Choice(prompt, self._judge(NoPrompt(), data.select_ids))
        choice.offer(0, math.nan, self._judge(prompt, data.select_ids))
        stop_reason = f"all {epochs} epochs done"
        for epoch in range(1, epochs + 1):
            loss = self._train_epoch(prompt, ids, (optimizer, schedule), rng, advance)
            choice.offer(epoch, loss, self._judge(prompt, data.select_ids))
            if patience is not None and epoch < epochs and choice.waited(epoch) >= patience:
                stop_reason = f"no better on select for {patience} epochs"
                break
        return choice.settle(stop_reason, data, str(self.passes.dtype).removeprefix("torch."))

    def _train_epoch(
        self,
        prompt: FittedPrompt,
        ids: Tensor,
        stepping: tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler],
        rng: np.random.Generator,
        advance: Advance,
    ) -> float:
        """One pass over the fit windows; returns their mean loss in nats/token."""
        optimizer, schedule = stepping
        prompt.train()
        order = torch.as_tensor(rng.permutation(len(ids)), device=ids.device)
        total = torch.zeros((), device=ids.device)
        for batch in torch.split(order, self.settings.batch_size):
            total += self._accumulate(prompt, ids[batch], optimizer)
            if self.settings.clip_norm > 0:
                torch.nn.utils.clip_grad_norm_(prompt.parameters(), self.settings.clip_norm)
            optimizer.step()
            schedule.step()
            advance(len(batch))
        mean = float(total) / len(ids)
        if not math.isfinite(mean):
            raise RunError(
                "the tuning loss is not finite; lower the learning rate "
                "(learning_rate in the profile) or use --dtype float32"
            )
        return mean

    def _accumulate(
        self, prompt: FittedPrompt, ids: Tensor, optimizer: torch.optim.Optimizer
    ) -> Tensor:
        """Gradients of one batch, in as many passes as memory asks for; returns summed loss."""
        while True:
            optimizer.zero_grad(set_to_none=True)
            size = self._backoff.fits(self.settings.batch_size)
            try:
                total = torch.zeros((), device=ids.device)
                for part in torch.split(ids, size):
                    nll = self.passes.window_nll(prompt, part)
                    loss = window_weighted(nll, self.settings.focus).sum() / len(ids)
                    torch.autograd.backward(loss)
                    total += nll.detach().sum()
                self._backoff.passed()
                return total
            except FAILED_ALLOCATION as error:
                if not is_out_of_memory(error):
                    raise
                if size > 1:
                    self._backoff.shrink()
                elif not self.passes.recompute():
                    raise RunError(
                        "out of memory tuning on a single window; use a smaller window "
                        "(--prefix-tokens, --suffix-tokens) or fewer virtual tokens"
                    ) from error
                else:
                    self.memory.recomputes = True
                let_go(error)

    def _judge(self, prompt: SoftPrompt, ids: NDArray[np.int32]) -> tuple[SelectScore, float]:
        """How the prompt does on ``select``, and its mean NLL there."""
        if isinstance(prompt, FittedPrompt):
            prompt.eval()
        exact, nll = self.extractor.verify(prompt, ids)
        return SelectScore(int(exact.sum()), float(np.exp(-nll).mean())), float(nll.mean())


class _Choice:
    """Keeps the best state seen on ``select``, against no prompt at all."""

    def __init__(self, prompt: FittedPrompt, none: tuple[SelectScore, float]) -> None:
        self.prompt = prompt
        self.none = none[0]
        self.best: tuple[SelectScore, int] | None = None
        self.state: dict[str, Tensor] = {}
        self.epochs: list[Epoch] = []

    def offer(self, epoch: int, loss: float, judged: tuple[SelectScore, float]) -> None:
        """Note an epoch's score, and its state if it is the best."""
        score, nll = judged
        self.epochs.append(Epoch(epoch, loss, score.exact, nll))
        if self.best is None or score > self.best[0]:
            self.best = (score, epoch)
            self.state = {name: value.clone() for name, value in self.prompt.state_dict().items()}

    def waited(self, epoch: int) -> int:
        """Epochs since the best one."""
        return epoch - (self.best[1] if self.best is not None else 0)

    def settle(self, stop_reason: str, data: TuningData, precision: str) -> Fit:
        """Put the best state back and say what was chosen."""
        assert self.best is not None  # epoch 0 has been offered
        self.prompt.load_state_dict(self.state)
        self.prompt.eval().requires_grad_(False)
        trained = self.best[0] >= self.none
        record = FitRecord(
            chosen=f"epoch {self.best[1]}" if trained else NO_PROMPT,
            epochs=tuple(self.epochs),
            stop_reason=stop_reason,
            trainable_parameters=sum(p.numel() for p in self.prompt.parameters()),
            fit_windows=len(data.fit_ids),
            select_windows=len(data.select_ids),
            precision=precision,
        )
        return Fit(self.prompt if trained else NoPrompt(), self.prompt, record)


def window_weighted(nll: Tensor, focus: float) -> Tensor:
    """(B,) losses whose gradient is that of the NLL, each window weighted by exp(-focus*NLL).

    Far the most windows are not memorized and no prompt brings them out; unweighted, they
    decide where the prompt goes. This is minus the suffix likelihood to the power focus/S.
    """
    if focus == 0:
        return nll
    return nll * torch.exp(-focus * nll.detach())


def rate_factor(step: int, steps: int, settings: TuningSettings) -> float:
    """Share of the full learning rate at a step: a linear rise, then the schedule."""
    rising = min(1.0, (step + 1) / max(1.0, settings.warmup * steps))
    falling = 1 - step / steps if settings.schedule == "linear" else 1.0
    return rising * falling
