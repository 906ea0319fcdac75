"""Fit a soft prompt on ``fit`` and choose the epoch that does best on ``select``.

Knows the optimizer, the schedule, and how an interrupted fit resumes. Never sees a window of
``audit``: it gets only the ids of the other two parts. The target gets no gradient.
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
from memaudit.attack.facts import FEW_TO_SELECT, NO_PROMPT, Epoch, FitRecord
from memaudit.attack.journal import Advance, NoJournal
from memaudit.attack.passes import StepGradient, TuningPasses
from memaudit.attack.prompts import FittedPrompt, NoPrompt, SoftPrompt
from memaudit.attack.stored_work import FitJournal, FitState
from memaudit.config.settings import TuningSettings
from memaudit.distributed import Processes
from memaudit.errors import RunError
from memaudit.target.checkpoint import Checkpoint


class SelectScore(NamedTuple):
    """Score of a prompt on ``select``; larger is better, compared in this order."""

    exact: int
    """Windows extracted exactly."""
    likelihood: float
    """Mean of exp(-NLL): breaks ties between prompts that extract equally many."""


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted soft prompt and its record."""

    prompt: SoftPrompt
    """Prompt to audit with: the chosen epoch, or NoPrompt if that beat every epoch."""
    fitted: FittedPrompt
    """The trained module in its best epoch, chosen or not."""
    record: FitRecord
    """Figures of the fit, without weights."""


class BestEpoch:
    """The epoch that does best on ``select`` so far, with its state."""

    def __init__(self, prompt: FittedPrompt, none: SelectScore) -> None:
        self.prompt = prompt
        self.none = none
        self.score: SelectScore | None = None
        self.epoch = 0
        self.state: dict[str, Tensor] = {}
        self.epochs: list[Epoch] = []

    @classmethod
    def resume(cls, prompt: FittedPrompt, stored: FitState) -> BestEpoch:
        """Return the best epoch of a stored fit."""
        best = cls(prompt, SelectScore(*stored.none))
        best.score, best.epoch = SelectScore(*stored.best[:2]), stored.best[2]
        best.state = dict(stored.best_prompt)
        best.epochs = list(stored.epochs)
        return best

    def offer(self, epoch: int, loss: float, scored: tuple[SelectScore, float]) -> None:
        """Record an epoch's score, and its state if it is the best."""
        score, nll = scored
        self.epochs.append(Epoch(epoch, loss, score.exact, nll))
        if self.score is None or score > self.score:
            self.score, self.epoch = score, epoch
            self.state = {name: value.clone() for name, value in self.prompt.state_dict().items()}

    def epochs_since(self, epoch: int) -> int:
        """Epochs since the best one."""
        return epoch - self.epoch

    def finish(
        self, stop_reason: str, fit_windows: int, select_windows: int, precision: str
    ) -> Fit:
        """Restore the best state and return the fit."""
        assert self.score is not None  # epoch 0 has been offered
        self.prompt.load_state_dict(self.state)
        self.prompt.eval().requires_grad_(False)
        trained = self.score >= self.none and stop_reason != FEW_TO_SELECT
        record = FitRecord(
            chosen=f"epoch {self.epoch}" if trained else NO_PROMPT,
            epochs=tuple(self.epochs),
            stop_reason=stop_reason,
            trainable_parameters=sum(p.numel() for p in self.prompt.parameters()),
            fit_windows=fit_windows,
            select_windows=select_windows,
            precision=precision,
        )
        return Fit(self.prompt if trained else NoPrompt(), self.prompt, record)


def score_on_select(
    extractor: Extractor, processes: Processes, prompt: SoftPrompt, ids: NDArray[np.int32]
) -> tuple[SelectScore, float]:
    """Return the score of a prompt on ``select``, ids (N,P+S), and its mean NLL, nats/token.

    Passes are shared between the processes; each holds the same windows as with one process.
    """
    if isinstance(prompt, FittedPrompt):
        prompt.eval()
    place = np.arange(len(ids)) // extractor.planned % processes.size
    gathered = processes.gather(extractor.verify(prompt, ids[place == processes.rank]))
    exact, nll = np.empty(len(ids), dtype=bool), np.empty(len(ids))
    for rank, (rank_exact, rank_nll) in enumerate(gathered):
        exact[place == rank], nll[place == rank] = rank_exact, rank_nll
    return SelectScore(int(exact.sum()), float(np.exp(-nll).mean())), float(nll.mean())


@dataclass(frozen=True, eq=False)
class TuningData:
    """Windows that one fit may see."""

    fit_ids: NDArray[np.int32]
    """(N,P+S)."""
    select_ids: NDArray[np.int32]
    """(M,P+S)."""
    least_select: int = 1
    """Windows of ``select`` without which nothing is trained: the choice would be a guess."""


class Tuner:
    """Fits prompts for one target and one window shape, with all processes."""

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
        memory = extractor.memory  # shared with earlier fits
        self._gradient = StepGradient(self.passes, settings, self.processes, memory)

    def fit(
        self,
        prompt: FittedPrompt,
        data: TuningData,
        rng: np.random.Generator,
        advance: Advance = lambda done: None,
        journal: FitJournal | None = None,
    ) -> Fit:
        """Train ``prompt`` in place and return it in its best state.

        With too few windows of ``select`` it is not trained, and not chosen.
        advance is called with the number of fit windows just trained on. journal: stores the fit
        after epochs, and holds it if it is resumed.

        Raises:
            RunError: the loss is not finite, or one window does not fit the memory.
            UsageError: the journal's entry does not belong to this fit.
        """
        journal = journal or FitJournal(NoJournal(), "", self.processes)
        training = _Training(prompt, self.settings, len(data.fit_ids))
        ids = torch.as_tensor(data.fit_ids, dtype=torch.long, device=self.checkpoint.device)
        stored = journal.load()
        if stored is None:
            best = BestEpoch(prompt, self._score(NoPrompt(), data)[0])
            best.offer(0, math.nan, self._score(prompt, data))
        else:
            best = _resume(training, stored, journal)
            for _ in range(len(best.epochs) - 1):
                rng.permutation(len(ids))  # every stored epoch took one permutation
                advance(len(ids))
        stop_reason = stored.stop_reason if stored is not None else ""
        if len(data.select_ids) < data.least_select:
            stop_reason = FEW_TO_SELECT
        while not stop_reason:
            epoch = len(best.epochs)
            self.processes.broadcast_tensors(list(prompt.parameters()))
            loss = self._train_epoch(training, ids, rng, advance)
            best.offer(epoch, loss, self._score(prompt, data))
            stop_reason = training.stop_reason(epoch, best.epochs_since(epoch))
            journal.keep(training.state(best, stop_reason), ended=bool(stop_reason))
        precision = str(self.passes.dtype).removeprefix("torch.")
        return best.finish(stop_reason, len(data.fit_ids), len(data.select_ids), precision)

    def _score(self, prompt: SoftPrompt, data: TuningData) -> tuple[SelectScore, float]:
        return score_on_select(self.extractor, self.processes, prompt, data.select_ids)

    def _train_epoch(
        self, training: _Training, ids: Tensor, rng: np.random.Generator, advance: Advance
    ) -> float:
        """Train on all fit windows once; return their mean loss in nats/token."""
        training.prompt.train()
        order = torch.as_tensor(rng.permutation(len(ids)), device=ids.device)
        total = torch.zeros((), device=ids.device)
        for batch in torch.split(order, self.settings.batch_size):
            total += self._gradient.set_gradients(training.prompt, ids[batch])
            training.step()
            advance(len(batch))
        mean = float(total) / len(ids)
        if not math.isfinite(mean):
            raise RunError(
                "the tuning loss is not finite; lower the learning rate "
                "(learning_rate in the profile) or use --dtype float32"
            )
        return mean


class _Training:
    """A prompt, its optimizer and its schedule."""

    def __init__(self, prompt: FittedPrompt, settings: TuningSettings, windows: int) -> None:
        self.prompt = prompt
        self.settings = settings
        self.epochs = settings.epochs_for(windows)
        self.patience = settings.patience_for(windows)
        self.steps = math.ceil(windows / settings.batch_size)
        """Steps per epoch."""
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

    def stop_reason(self, epoch: int, since_best: int) -> str:
        """Return why the fit ends after this epoch; empty if it continues."""
        if epoch >= self.epochs:
            return f"all {self.epochs} epochs done"
        if self.patience is not None and since_best >= self.patience:
            return f"no better on select for {self.patience} epochs"
        return ""

    def state(self, best: BestEpoch, stop_reason: str) -> Callable[[], FitState]:
        """Return a function that makes the state from which the fit resumes."""
        assert best.score is not None  # epoch 0 has been offered
        score, epoch = best.score, best.epoch
        return lambda: FitState(
            none=(best.none.exact, best.none.likelihood),
            best=(score.exact, score.likelihood, epoch),
            epochs=tuple(best.epochs),
            prompt=self.prompt.state_dict(),
            best_prompt=best.state,
            optimizer=self._optimizer.state_dict()["state"],
            stop_reason=stop_reason,
        )

    def _check_optimizer_state(self, stored: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Raise ValueError unless the state fits this optimizer, which does not check it."""
        trained = [weight for group in self._optimizer.param_groups for weight in group["params"]]
        if stored.keys() != set(range(len(trained))):
            raise ValueError("number of parameters differs")
        for number, parameter in enumerate(trained):
            shapes = {name: tensor.shape for name, tensor in stored[number].items()}
            moments = {"exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
            if shapes != {"step": torch.Size(), **moments}:
                raise ValueError("shape differs")
            if not all(tensor.isfinite().all() for tensor in stored[number].values()):
                raise ValueError("values are not finite")

    def restore(self, stored: FitState) -> None:
        """Restore the state after the stored epochs; raise torch's errors for another prompt's."""
        count = len(stored.epochs)
        if not 0 < count <= self.epochs + 1 or not 0 <= stored.best[2] < count:
            raise ValueError("number of epochs differs")
        self._check_optimizer_state(stored.optimizer)
        self.prompt.load_state_dict(stored.prompt)
        groups = self._optimizer.state_dict()["param_groups"]
        memory = {number: dict(moments) for number, moments in stored.optimizer.items()}
        self._optimizer.load_state_dict({"state": memory, "param_groups": groups})
        self._done = (count - 1) * self.steps
        self._set_rates()


def _resume(training: _Training, stored: FitState, journal: FitJournal) -> BestEpoch:
    shapes = {name: tensor.shape for name, tensor in training.prompt.state_dict().items()}
    best_shapes = {name: tensor.shape for name, tensor in stored.best_prompt.items()}
    try:
        training.restore(stored)
    except (RuntimeError, ValueError, KeyError):
        raise journal.damaged() from None
    if best_shapes != shapes:
        raise journal.damaged()
    return BestEpoch.resume(training.prompt, stored)


def rate_factor(step: int, steps: int, settings: TuningSettings) -> float:
    """Share of the full learning rate at a step: linear warm-up, then the schedule."""
    rising = min(1.0, (step + 1) / max(1.0, settings.warmup * steps))
    falling = 1 - step / steps if settings.schedule == "linear" else 1.0
    return rising * falling
