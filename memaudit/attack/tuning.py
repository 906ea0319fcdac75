"""Fits a soft prompt on ``fit`` and keeps the state that does best on ``select``.

Knows the optimizer and the schedule, and how a fit that was left goes on. Never sees a window of
``audit``: it is handed the ids of the other two parts and nothing else. The target gets no
gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.choosing import Choice, Fit, SelectScore, judge
from memaudit.attack.extraction import Extractor
from memaudit.attack.fit_state import FitKeeper, FitState
from memaudit.attack.journal import NoJournal
from memaudit.attack.prompts import FittedPrompt, NoPrompt
from memaudit.attack.step_gradient import StepGradient
from memaudit.attack.tuning_passes import TuningPasses
from memaudit.config.settings import TuningSettings
from memaudit.distributed import Processes
from memaudit.errors import RunError
from memaudit.target.checkpoint import Checkpoint

Advance = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class TuningData:
    """The windows one fit may see."""

    fit_ids: NDArray[np.int32]
    """(N,P+S)."""
    select_ids: NDArray[np.int32]
    """(M,P+S)."""


class Tuner:
    """Fits prompts for one target and one shape of windows, with all processes."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        extractor: Extractor,
        settings: TuningSettings,
        processes: Processes | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.extractor = extractor
        self.settings = settings
        self.processes = processes or Processes()
        self.passes = TuningPasses(checkpoint, extractor.prefix_tokens, settings)
        memory = extractor.memory  # what an earlier fit ran into
        self._gradient = StepGradient(self.passes, settings, self.processes, memory)

    def fit(
        self,
        prompt: FittedPrompt,
        data: TuningData,
        rng: np.random.Generator,
        advance: Advance = lambda done: None,
        keeper: FitKeeper | None = None,
    ) -> Fit:
        """Train ``prompt`` in place and return it in its best state.

        advance is called with the number of fit windows just trained on. keeper: knows the fit
        as far as it has come, and is told after every epoch; none keeps nothing.

        Raises:
            RunError: for a non-finite loss, or where one window does not fit the memory.
            UsageError: where what the keeper knows is none of this fit.
        """
        keeper = keeper or FitKeeper(NoJournal(), "", self.processes)
        course = _Course(prompt, self.settings, len(data.fit_ids))
        ids = torch.as_tensor(data.fit_ids, dtype=torch.long, device=self.checkpoint.device)
        kept = keeper.load()
        if kept is None:
            none, _ = judge(self.extractor, self.processes, NoPrompt(), data.select_ids)
            choice = Choice(prompt, none)
            choice.offer(0, math.nan, self._judge(prompt, data))
        else:
            choice = _resume(course, kept, keeper)
            for _ in range(len(choice.epochs) - 1):
                rng.permutation(len(ids))  # as every epoch has drawn
                advance(len(ids))
        stop_reason = kept.stop_reason if kept is not None else ""
        while not stop_reason:
            epoch = len(choice.epochs)
            self.processes.broadcast_tensors(list(prompt.parameters()))
            loss = self._train_epoch(course, ids, rng, advance)
            choice.offer(epoch, loss, self._judge(prompt, data))
            stop_reason = course.why_stop(epoch, choice.waited(epoch))
            keeper.keep(course.state(choice, stop_reason), ended=bool(stop_reason))
        precision = str(self.passes.dtype).removeprefix("torch.")
        return choice.settle(stop_reason, len(data.fit_ids), len(data.select_ids), precision)

    def _judge(self, prompt: FittedPrompt, data: TuningData) -> tuple[SelectScore, float]:
        return judge(self.extractor, self.processes, prompt, data.select_ids)

    def _train_epoch(
        self, course: _Course, ids: Tensor, rng: np.random.Generator, advance: Advance
    ) -> float:
        """One pass over the fit windows; returns their mean loss in nats/token."""
        course.prompt.train()
        order = torch.as_tensor(rng.permutation(len(ids)), device=ids.device)
        total = torch.zeros((), device=ids.device)
        for batch in torch.split(order, self.settings.batch_size):
            total += self._gradient.put(course.prompt, ids[batch])
            course.step()
            advance(len(batch))
        mean = float(total) / len(ids)
        if not math.isfinite(mean):
            raise RunError(
                "the tuning loss is not finite; lower the learning rate "
                "(learning_rate in the profile) or use --dtype float32"
            )
        return mean


class _Course:
    """A prompt, its optimizer and its schedule, from the first step to the last."""

    def __init__(self, prompt: FittedPrompt, settings: TuningSettings, windows: int) -> None:
        self.prompt = prompt
        self.settings = settings
        self.epochs = settings.epochs_for(windows)
        self.patience = settings.patience_for(windows)
        self.steps = math.ceil(windows / settings.batch_size)
        """Per epoch."""
        self._optimizer = torch.optim.AdamW(
            prompt.parameter_groups(), weight_decay=settings.weight_decay, fused=True
        )
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._done = 0
        self._set_rates()

    def step(self) -> None:
        """Move the prompt along its gradient."""
        if self.settings.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.prompt.parameters(), self.settings.clip_norm)
        self._optimizer.step()
        self._done += 1
        self._set_rates()

    def _set_rates(self) -> None:
        factor = rate_factor(self._done, self.steps * self.epochs, self.settings)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def why_stop(self, epoch: int, waited: int) -> str:
        """Why the fit ends after this epoch; empty if it goes on."""
        if epoch >= self.epochs:
            return f"all {self.epochs} epochs done"
        if self.patience is not None and waited >= self.patience:
            return f"no better on select for {self.patience} epochs"
        return ""

    def state(self, choice: Choice, stop_reason: str) -> Callable[[], FitState]:
        """What :meth:`go_on` and a choice need to go on from here, when it is asked for."""
        assert choice.best is not None  # epoch 0 has been offered
        (exact, likelihood), epoch = choice.best
        return lambda: FitState(
            none=(choice.none.exact, choice.none.likelihood),
            best=(exact, likelihood, epoch),
            epochs=tuple(choice.epochs),
            prompt=self.prompt.state_dict(),
            best_prompt=choice.state,
            optimizer=self._optimizer.state_dict()["state"],
            stop_reason=stop_reason,
        )

    def _check_memory(self, kept: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Raise ValueError for what is no memory of this optimizer, which trusts it blindly."""
        trained = [one for group in self._optimizer.param_groups for one in group["params"]]
        if kept.keys() != set(range(len(trained))):
            raise ValueError("not as many parameters")
        for number, parameter in enumerate(trained):
            shapes = {name: tensor.shape for name, tensor in kept[number].items()}
            moments = {"exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
            if shapes != {"step": torch.Size(), **moments}:
                raise ValueError("not of this shape")
            if not all(tensor.isfinite().all() for tensor in kept[number].values()):
                raise ValueError("no numbers")

    def go_on(self, kept: FitState) -> None:
        """Be as after the epochs that were kept. Raises what torch does for another prompt's."""
        if not 0 < len(kept.epochs) <= self.epochs + 1 or not 0 <= kept.best[2] < len(kept.epochs):
            raise ValueError("not as many epochs")
        self._check_memory(kept.optimizer)
        self.prompt.load_state_dict(kept.prompt)
        groups = self._optimizer.state_dict()["param_groups"]
        memory = {number: dict(of) for number, of in kept.optimizer.items()}
        self._optimizer.load_state_dict({"state": memory, "param_groups": groups})
        self._done = (len(kept.epochs) - 1) * self.steps
        self._set_rates()


def _resume(course: _Course, kept: FitState, keeper: FitKeeper) -> Choice:
    shapes = {name: tensor.shape for name, tensor in course.prompt.state_dict().items()}
    best = {name: tensor.shape for name, tensor in kept.best_prompt.items()}
    try:
        course.go_on(kept)
    except (RuntimeError, ValueError, KeyError):
        raise keeper.damaged() from None
    if best != shapes:
        raise keeper.damaged()
    return Choice.resumed(course.prompt, kept)


def rate_factor(step: int, steps: int, settings: TuningSettings) -> float:
    """Share of the full learning rate at a step: a linear rise, then the schedule."""
    rising = min(1.0, (step + 1) / max(1.0, settings.warmup * steps))
    falling = 1 - step / steps if settings.schedule == "linear" else 1.0
    return rising * falling
