"""Which state of a prompt audits: judged on ``select``, against no prompt at all.

Knows scores on ``select`` and the states they belong to. Knows nothing of losses or optimizers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.extraction import Extractor
from memaudit.attack.fit_record import NO_PROMPT, Epoch, FitRecord
from memaudit.attack.fit_state import FitState
from memaudit.attack.prompts import FittedPrompt, NoPrompt, SoftPrompt
from memaudit.distributed import Processes


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
    extractor: Extractor, processes: Processes, prompt: SoftPrompt, ids: NDArray[np.int32]
) -> tuple[SelectScore, float]:
    """How a prompt does on ``select``, ids (N,P+S), and its mean NLL there, in nats/token.

    The passes are sharded, each with the windows that it has with one process.
    """
    if isinstance(prompt, FittedPrompt):
        prompt.eval()
    place = np.arange(len(ids)) // extractor.planned % processes.size
    found = processes.gather(extractor.verify(prompt, ids[place == processes.rank]))
    exact, nll = np.empty(len(ids), dtype=bool), np.empty(len(ids))
    for rank, (its_exact, its_nll) in enumerate(found):
        exact[place == rank], nll[place == rank] = its_exact, its_nll
    return SelectScore(int(exact.sum()), float(np.exp(-nll).mean())), float(nll.mean())
