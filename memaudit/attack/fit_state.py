"""A fit that can be left after any epoch and gone on with later, to the same prompt.

Knows what decides how a fit goes on, and how that is kept in a journal. Knows nothing of losses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.fit_record import Epoch
from memaudit.attack.journal import Arrays, Entry, Journal
from memaudit.distributed import Processes
from memaudit.errors import UsageError

KEEPING_SHARE = 0.05
"""Of the time of a fit, at most, that keeping its epochs may take."""


@dataclass(frozen=True, eq=False)
class FitState:
    """A fit after some epochs: all that decides how it goes on."""

    none: tuple[int, float]
    """How no prompt at all does on ``select``: exact windows, and mean likelihood."""
    best: tuple[int, float, int]
    """The best state's score on ``select``, and its epoch."""
    epochs: tuple[Epoch, ...]
    prompt: Mapping[str, Tensor]
    """The prompt as it is, by the names of its state."""
    best_prompt: Mapping[str, Tensor]
    """The prompt as it was in its best epoch."""
    optimizer: Mapping[int, Mapping[str, Tensor]]
    """By number of the parameter, what the optimizer remembers of it."""
    stop_reason: str
    """Why the fit has ended; empty while it has not."""


def from_fit(state: FitState) -> Entry:
    """Everything as arrays: float32 stays float32, figures are float64."""
    arrays: dict[str, NDArray[np.generic]] = {
        "none": np.array(state.none, dtype=np.float64),
        "best": np.array(state.best, dtype=np.float64),
        "epochs": np.array(
            [(one.epoch, one.loss, one.select_exact, one.select_nll) for one in state.epochs],
            dtype=np.float64,
        ),
    }
    for part, tensors in (("now", state.prompt), ("best", state.best_prompt)):
        arrays |= {f"{part}/{name}": _array(tensor) for name, tensor in tensors.items()}
    for number, memory in state.optimizer.items():
        arrays |= {f"optimizer/{number}/{name}": _array(of) for name, of in memory.items()}
    return Entry(arrays, state.stop_reason)


def to_fit(entry: Entry) -> FitState:
    """The state again. Raises KeyError or ValueError where the entry is none."""
    arrays = entry.arrays
    none, best, epochs = (arrays[name].tolist() for name in ("none", "best", "epochs"))
    if [row[0] for row in epochs] != list(range(len(epochs))):
        raise ValueError("epochs that do not follow each other")
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name in arrays:
        if name.startswith("optimizer/"):
            _, number, what = name.split("/")
            optimizer.setdefault(int(number), {})[what] = _tensor(arrays[name])
    return FitState(
        none=(int(none[0]), none[1]),
        best=(int(best[0]), best[1], int(best[2])),
        epochs=tuple(
            Epoch(int(number), loss, int(exact), nll) for number, loss, exact, nll in epochs
        ),
        prompt=_named(arrays, "now/"),
        best_prompt=_named(arrays, "best/"),
        optimizer=optimizer,
        stop_reason=entry.note,
    )


def _named(arrays: Arrays, prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): _tensor(array)
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def _array(tensor: Tensor) -> NDArray[np.generic]:
    array: NDArray[np.generic] = tensor.detach().cpu().numpy()
    return array


def _tensor(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.array(array))


class FitKeeper:
    """Keeps one fit in a journal, which only the main process has."""

    def __init__(self, journal: Journal, name: str, processes: Processes) -> None:
        self._journal = journal
        self._name = name
        self._processes = processes
        self._free_until = 0.0

    def load(self) -> FitState | None:
        """What is known of this fit. Raises UsageError where it is damaged."""
        entry = self._processes.broadcast(
            self._journal.read(self._name) if self._processes.is_main else None
        )
        if entry is None:
            return None
        try:
            return to_fit(entry)
        except (KeyError, ValueError, TypeError, IndexError, OverflowError):
            raise self.damaged() from None

    def damaged(self) -> UsageError:
        """The error that says so."""
        return UsageError(
            f"unfinished/{self._name}.safetensors: is not of this fit; remove it and resume again"
        )

    def keep(self, state: Callable[[], FitState], *, ended: bool) -> None:
        """Keep the state after an epoch: that of the end always, others as often as is cheap."""
        begun = time.monotonic()
        if self._processes.is_main and (ended or begun >= self._free_until):
            self._journal.keep(self._name, from_fit(state()))
            now = time.monotonic()
            self._free_until = now + (now - begun) / KEEPING_SHARE
