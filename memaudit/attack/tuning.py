"""Fits a soft prompt on ``fit`` and keeps the state that does best on ``select``.

Knows the optimizer and the schedule, and how a fit that was left goes on. Never sees a window of
``audit``: it is handed the ids of the other two parts and nothing else. The target gets no
gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.extraction import Extractor
from memaudit.attack.facts import NO_PROMPT, Epoch, FitRecord
from memaudit.attack.journal import FitKeeper, FitState, NoJournal
from memaudit.attack.passes import StepGradient, TuningPasses
from memaudit.attack.prompts import FittedPrompt, NoPrompt, SoftPrompt
from memaudit.config.settings import TuningSettings
from memaudit.distributed import Team
from memaudit.errors import RunError
from memaudit.target.checkpoint import Checkpoint


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


class Choice:
    """Keeps the best state seen on ``select``."""

    def __init__(self, prompt: FittedPrompt, none: SelectScore) -> None:
        self.prompt = prompt
        self.none = none
        self.best: tuple[SelectScore, int] | None = None
        self.state: dict[str, Tensor] = {}
        self.epochs: list[Epoch] = []

    @classmethod
    def resumed(cls, prompt: FittedPrompt, kept: FitState) -> Choice:
        """What is known after the epochs that were kept."""
        choice = cls(prompt, SelectScore(*kept.none))
        choice.best = (SelectScore(*kept.best[:2]), kept.best[2])
        choice.state = dict(kept.best_prompt)
        choice.epochs = list(kept.epochs)
        return choice

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

    def settle(
        self, stop_reason: str, fit_windows: int, select_windows: int, precision: str
    ) -> Fit:
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
            fit_windows=fit_windows,
            select_windows=select_windows,
            precision=precision,
        )
        return Fit(self.prompt if trained else NoPrompt(), self.prompt, record)


def judge(
    extractor: Extractor, team: Team, prompt: SoftPrompt, ids: NDArray[np.int32]
) -> tuple[SelectScore, float]:
    """How a prompt does on ``select``, ids (N,P+S), and its mean NLL there, in nats/token.

    The passes are dealt out to the team, each with the windows that it has with one process.
    """
    if isinstance(prompt, FittedPrompt):
        prompt.eval()
    place = np.arange(len(ids)) // extractor.planned % team.size
    found = team.gather(extractor.verify(prompt, ids[place == team.rank]))
    exact, nll = np.empty(len(ids), dtype=bool), np.empty(len(ids))
    for rank, (its_exact, its_nll) in enumerate(found):
        exact[place == rank], nll[place == rank] = its_exact, its_nll
    return SelectScore(int(exact.sum()), float(np.exp(-nll).mean())), float(nll.mean())


Advance = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class TuningData:
    """The windows one fit may see."""

    fit_ids: NDArray[np.int32]
    """(N,P+S)."""
    select_ids: NDArray[np.int32]
    """(M,P+S)."""


class Tuner:
    """Fits prompts for one target and one shape of windows, with the others of a team."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        extractor: Extractor,
        settings: TuningSettings,
        team: Team | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.extractor = extractor
        self.settings = settings
        self.team = team or Team()
        self.passes = TuningPasses(checkpoint, extractor.prefix_tokens, settings)
        memory = extractor.memory  # what an earlier fit ran into
        self._gradient = StepGradient(self.passes, settings, self.team, memory)

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
        keeper = keeper or FitKeeper(NoJournal(), "", self.team)
        course = _Course(prompt, self.settings, len(data.fit_ids))
        ids = torch.as_tensor(data.fit_ids, dtype=torch.long, device=self.checkpoint.device)
        kept = keeper.load()
        if kept is None:
            none, _ = judge(self.extractor, self.team, NoPrompt(), data.select_ids)
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
            self.team.align(list(prompt.parameters()))
            loss = self._train_epoch(course, ids, rng, advance)
            choice.offer(epoch, loss, self._judge(prompt, data))
            stop_reason = course.why_stop(epoch, choice.waited(epoch))
            keeper.keep(course.state(choice, stop_reason), ended=bool(stop_reason))
        precision = str(self.passes.dtype).removeprefix("torch.")
        return choice.settle(stop_reason, len(data.fit_ids), len(data.select_ids), precision)

    def _judge(self, prompt: FittedPrompt, data: TuningData) -> tuple[SelectScore, float]:
        return judge(self.extractor, self.team, prompt, data.select_ids)

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
