"""What has been done of the attacks: extracted parts and fits, in a form that can be kept.

Knows what it takes to go on from there exactly, and that no token of the audited suffix is kept
where the model said it. Knows nothing of files: a Journal keeps named arrays, somewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.extraction import Extraction
from memaudit.attack.fit_record import Epoch

Arrays = Mapping[str, NDArray[np.generic]]

AS_THE_SUFFIX = -2
"""Stands where the continuation has the suffix's own token, so that a part gives nothing away."""


class Entry(NamedTuple):
    """One piece of finished work."""

    arrays: Arrays
    note: str = ""
    """A word on it, without audited text."""


class Journal(Protocol):
    """Keeps what is done, under names, for a run that goes on later."""

    def read(self, name: str) -> Entry | None:
        """What was kept under the name, if anything."""

    def starting(self, prefix: str) -> list[str]:
        """The names that begin so, sorted."""

    def keep(self, name: str, entry: Entry) -> None:
        """Keep it from now on, in place of what was there."""


class NoJournal:
    """Keeps nothing."""

    def read(self, name: str) -> Entry | None:
        """Always None."""
        return None

    def starting(self, prefix: str) -> list[str]:
        """Always empty."""
        return []

    def keep(self, name: str, entry: Entry) -> None:
        """Forget it."""


def from_extraction(found: Extraction, suffix_ids: NDArray[np.int32]) -> Entry:
    """An extraction of windows whose suffixes (N,S) are known whenever it is read."""
    said = np.where(found.continuation_ids == suffix_ids, AS_THE_SUFFIX, found.continuation_ids)
    return Entry({"said": said, "suffix_nll": found.suffix_nll, "log_p_z": found.log_p_z})


def to_extraction(entry: Entry, suffix_ids: NDArray[np.int32]) -> Extraction | None:
    """The extraction again; None where the entry is none of these windows."""
    said, nll, log_p_z = (entry.arrays.get(name) for name in ("said", "suffix_nll", "log_p_z"))
    if said is None or nll is None or log_p_z is None:
        return None
    rows = (len(suffix_ids),)
    if said.shape != suffix_ids.shape or nll.shape != rows or log_p_z.shape != rows:
        return None
    if (said.dtype, nll.dtype, log_p_z.dtype) != (np.int32, np.float64, np.float64):
        return None
    return Extraction(np.where(said == AS_THE_SUFFIX, suffix_ids, said), nll, log_p_z)


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
