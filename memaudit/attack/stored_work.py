"""Finished extractions and unfinished fits as pieces of work, so that a run can resume.

Knows how an extraction is stored: tokens that equal the audited suffix are left out. Knows how the
state of a fit is stored: all that decides how it continues. Knows nothing of files or losses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memaudit.attack.extraction import Extraction
from memaudit.attack.facts import Epoch
from memaudit.attack.journal import Arrays, Entry, Journal
from memaudit.distributed import Processes
from memaudit.errors import UsageError

SUFFIX_TOKEN = -2
"""Placeholder for a token that equals the suffix's: extracted text is not stored a second time."""


def extraction_to_entry(extraction: Extraction, suffix_ids: NDArray[np.int32]) -> Entry:
    """Store an extraction; the reader has to know the suffixes (N,S) of its windows."""
    ids = extraction.continuation_ids
    tokens = np.where(ids == suffix_ids, SUFFIX_TOKEN, ids)
    nll, log_p_z = extraction.suffix_nll, extraction.log_p_z
    return Entry({"said": tokens, "suffix_nll": nll, "log_p_z": log_p_z})


def entry_to_extraction(entry: Entry, suffix_ids: NDArray[np.int32]) -> Extraction | None:
    """Return the stored extraction; None if the entry is not of these windows."""
    stored, nll, log_p_z = (entry.arrays.get(name) for name in ("said", "suffix_nll", "log_p_z"))
    rows = len(suffix_ids)
    if not (
        _is_like(stored, np.dtype(np.int32), suffix_ids.shape)
        and _is_like(nll, np.dtype(np.float64), (rows,))
        and _is_like(log_p_z, np.dtype(np.float64), (rows,))
    ):
        return None
    tokens = np.asarray(stored, np.int32)
    # Rounding may lift a probability above 1; no figure may be NaN.
    likely = (np.asarray(nll, float) >= 0).all() and (np.asarray(log_p_z, float) <= 1e-6).all()
    if tokens.min(initial=0) < SUFFIX_TOKEN or not likely:
        return None
    continuation = np.where(tokens == SUFFIX_TOKEN, suffix_ids, tokens)
    return Extraction(continuation, np.asarray(nll, float), np.asarray(log_p_z, float))


def _is_like(
    array: NDArray[np.generic] | None, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> TypeGuard[NDArray[np.generic]]:
    return array is not None and array.dtype == dtype and array.shape == shape


MAX_SAVE_SHARE = 0.05
"""Largest share of the time of a fit that saving its epochs may take."""


@dataclass(frozen=True, eq=False)
class FitState:
    """A fit after some epochs: all that decides how it continues."""

    none: tuple[int, float]
    """Score of ``none`` on ``select``: exact windows and mean likelihood."""
    best: tuple[int, float, int]
    """Score of the best state on ``select``, and its epoch."""
    epochs: tuple[Epoch, ...]
    prompt: Mapping[str, Tensor]
    """State dict of the prompt."""
    best_prompt: Mapping[str, Tensor]
    """State dict of the prompt in its best epoch."""
    optimizer: Mapping[int, Mapping[str, Tensor]]
    """Optimizer state by number of the parameter."""
    stop_reason: str
    """Why the fit ended; empty while it has not."""


def fit_to_entry(state: FitState) -> Entry:
    """Store a fit as arrays: float32 stays float32, figures are float64."""
    arrays: dict[str, NDArray[np.generic]] = {
        "none": np.array(state.none, dtype=np.float64),
        "best": np.array(state.best, dtype=np.float64),
        "epochs": np.array(
            [(e.epoch, e.loss, e.select_exact, e.select_nll) for e in state.epochs],
            dtype=np.float64,
        ),
    }
    for part, tensors in (("now", state.prompt), ("best", state.best_prompt)):
        arrays |= {f"{part}/{name}": _array(tensor) for name, tensor in tensors.items()}
    for number, memory in state.optimizer.items():
        arrays |= {f"optimizer/{number}/{name}": _array(moment) for name, moment in memory.items()}
    return Entry(arrays, state.stop_reason)


def entry_to_fit(entry: Entry) -> FitState:
    """Return the stored fit. Raises KeyError or ValueError if the entry is not a fit."""
    arrays = entry.arrays
    none, best, epochs = (arrays[name].tolist() for name in ("none", "best", "epochs"))
    if [row[0] for row in epochs] != list(range(len(epochs))):
        raise ValueError("epochs are not consecutive")
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name in arrays:
        if name.startswith("optimizer/"):
            _, number, key = name.split("/")
            optimizer.setdefault(int(number), {})[key] = _tensor(arrays[name])
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


class FitJournal:
    """Stores one fit in the journal of rank 0."""

    def __init__(self, journal: Journal, name: str, processes: Processes) -> None:
        self._journal = journal
        self._name = name
        self._processes = processes
        self._free_until = 0.0

    def load(self) -> FitState | None:
        """Return the stored state of this fit, if any. Raises UsageError if it is damaged."""
        entry = self._processes.broadcast(
            self._journal.read(self._name) if self._processes.is_main else None
        )
        if entry is None:
            return None
        try:
            return entry_to_fit(entry)
        except (KeyError, ValueError, TypeError, IndexError, OverflowError):
            raise self.damaged() from None

    def damaged(self) -> UsageError:
        """Return the error for a file that does not hold this fit."""
        return UsageError(
            f"unfinished/{self._name}.safetensors: does not belong to this fit; "
            "remove it and resume again"
        )

    def keep(self, state: Callable[[], FitState], *, ended: bool) -> None:
        """Store the state after an epoch: always the last one, others as often as is cheap."""
        begun = time.monotonic()
        if self._processes.is_main and (ended or begun >= self._free_until):
            self._journal.keep(self._name, fit_to_entry(state()))
            now = time.monotonic()
            self._free_until = now + (now - begun) / MAX_SAVE_SHARE
