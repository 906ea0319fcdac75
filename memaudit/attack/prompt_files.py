"""Fitted prompts on disk: one safetensors file per fold.

Knows the prompts' tensors and settings. A file also holds the 64-bit marks of the windows that
its prompts were fitted or selected on (their runs of tokens, suffixes, samples and groups), so
that a later audit knows which windows the prompts have seen. The file can therefore confirm a
guess at that text, and needs the same protection as the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from memaudit.attack.facts import NO_PROMPT
from memaudit.attack.generator import Generator, TrainedRows, count_positions
from memaudit.attack.prompts import (
    ConstantPrompt,
    DynamicPrompt,
    FittedPrompt,
    NoPrompt,
    SoftPrompt,
)
from memaudit.config.settings import ConstantSettings, DynamicSettings, TuningSettings
from memaudit.errors import UsageError
from memaudit.system.files import file_sha256
from memaudit.target.checkpoint import Checkpoint

FORMAT = "memaudit-prompts-1"
SEEN = "seen"
_UNFIT = (
    *(SafetensorError, OSError, RuntimeError),
    *(AttributeError, KeyError, TypeError, ValueError),  # from malformed facts
)


@dataclass(frozen=True, eq=False)
class FoldPrompts:
    """The prompts of one fold."""

    fold: int
    prompts: Mapping[str, FittedPrompt]
    """Prompts by attack name."""
    chosen: Mapping[str, str]
    """Epoch chosen on ``select``, or ``no prompt``, by attack name."""
    marks: NDArray[np.uint64]
    """Sorted marks (data.clusters.Marker) of the windows in ``fit`` and ``select``."""
    cluster_run: int
    """Tokens in a marked run."""
    prefix_tokens: int
    """P of the windows that the prompts were fitted for."""
    target: str
    """Name of the model that the prompts were fitted on."""

    @property
    def usable(self) -> dict[str, SoftPrompt]:
        """Prompts to audit with, by attack name; no prompt if ``select`` preferred that."""
        return {
            attack: NoPrompt() if self.chosen[attack] == NO_PROMPT else prompt
            for attack, prompt in self.prompts.items()
        }


def to_bytes(fold: FoldPrompts) -> bytes:
    """Serialize a fold; equal prompts give equal bytes."""
    tensors = {SEEN: torch.from_numpy(fold.marks.view(np.int64).copy())}
    for attack, prompt in fold.prompts.items():
        for name, tensor in prompt.state_dict().items():
            tensors[f"{attack}/{name}"] = tensor.detach().cpu().contiguous().clone()
    facts = {
        "format": FORMAT,
        "target": fold.target,
        "fold": fold.fold,
        "cluster_run": fold.cluster_run,
        "prefix_tokens": fold.prefix_tokens,
        "chosen": dict(fold.chosen),
        "settings": {
            name: prompt.settings.model_dump(mode="json") for name, prompt in fold.prompts.items()
        },
    }
    return save(tensors, metadata={"memaudit": json.dumps(facts, sort_keys=True)})


def file_name(fold: int) -> str:
    """Name of the file of a fold."""
    return f"generator-{fold}.safetensors"


def hash_fitted(folds: Iterable[FoldPrompts]) -> dict[str, str]:
    """SHA-256 of the output of `to_bytes`, by file name."""
    return {file_name(fold.fold): hashlib.sha256(to_bytes(fold)).hexdigest() for fold in folds}


def hash_loaded(path: Path | None) -> dict[str, str]:
    """SHA-256 of the files of ``--generator``, by file name; empty without it."""
    return {} if path is None else {file.name: file_sha256(file) for file in find_files(path)}


def find_files(path: Path) -> list[Path]:
    """Return the prompt files of a run folder, or the file itself. Raises UsageError if none."""
    try:
        files = sorted(path.glob("generator-*.safetensors")) if path.is_dir() else [path]
        exist = all(file.is_file() for file in files)  # opening a pipe would block
    except OSError as error:
        raise UsageError(f"--generator {path}: cannot be read ({error.strerror})") from None
    if not files or not exist:
        raise UsageError(f"--generator {path}: no generator-*.safetensors here")
    return files


def load_all(path: Path, checkpoint: Checkpoint) -> tuple[FoldPrompts, ...]:
    """Load the prompts of all folds from a run folder, or of one file. Raises UsageError."""
    folds = tuple(load_prompts(file, checkpoint) for file in find_files(path))
    if any(fold.prompts.keys() != folds[0].prompts.keys() for fold in folds):
        raise UsageError(f"--generator {path}: its files hold prompts of different attacks")
    return folds


def fitted_prefix_tokens(path: Path) -> int:
    """Return P of the windows that the prompts were fitted for. Raises UsageError."""
    try:
        with safe_open(find_files(path)[0], framework="pt") as file:
            tokens = json.loads((file.metadata() or {})["memaudit"])["prefix_tokens"]
        if type(tokens) is not int or not 0 < tokens < 2**31:
            raise ValueError("no number of tokens")
    except _UNFIT:
        raise UsageError(f"--generator {path}: not prompts written by memaudit") from None
    return tokens


def load_prompts(path: Path, checkpoint: Checkpoint) -> FoldPrompts:
    """Load one file for this target. Raises UsageError if it does not fit the target."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "memaudit" not in metadata:
                raise UsageError(f"--generator {path}: not written by memaudit")
            facts = json.loads(metadata["memaudit"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts["format"] != FORMAT:
            raise UsageError(f"--generator {path}: written by another version of memaudit")
        fold = _facts(facts, tensors)
        prompts = {
            attack: _build(attack, settings, fold.prefix_tokens, tensors, checkpoint)
            for attack, settings in facts["settings"].items()
        }
        if not prompts.keys() <= fold.chosen.keys():
            raise ValueError("chosen epoch is missing")
        return replace(fold, prompts=prompts)
    except _UNFIT as error:
        raise UsageError(
            f"--generator {path}: not prompts for this target ({_first_line(error)})"
        ) from None


def _facts(facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> FoldPrompts:
    """Read everything except the prompts. Raises KeyError, TypeError or ValueError."""
    whole = {name: facts[name] for name in ("fold", "cluster_run", "prefix_tokens")}
    if not all(type(number) is int and 0 <= number < 2**31 for number in whole.values()):
        raise ValueError("facts are not numbers")
    if not whole["cluster_run"] or not whole["prefix_tokens"]:
        raise ValueError("a window without tokens")
    chosen, target = dict(facts["chosen"]), facts["target"]
    if not all(isinstance(text, str) for text in (target, *chosen.values())):
        raise ValueError("facts are not text")
    stored = tensors[SEEN]
    if stored.dtype != torch.int64 or stored.ndim != 1:
        raise ValueError("marks of the wrong type")
    marks = stored.numpy().view(np.uint64)
    if not bool(np.all(marks[1:] >= marks[:-1])):
        raise ValueError("marks out of order")
    return FoldPrompts(prompts={}, chosen=chosen, marks=marks, target=target, **whole)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _build(
    attack: str,
    settings: Mapping[str, object],
    prefix_tokens: int,
    tensors: Mapping[str, torch.Tensor],
    checkpoint: Checkpoint,
) -> FittedPrompt:
    state = {
        name.removeprefix(f"{attack}/"): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{attack}/")
    }
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise ValueError("values are not finite")
    prompt: FittedPrompt
    if attack == "constant":
        constant = ConstantSettings.model_validate(settings)
        _check_shape(state["vectors"], constant.num_virtual_tokens, checkpoint)
        _check_rank(constant, state)
        prompt = ConstantPrompt(constant, state["vectors"], torch.Generator())
    elif attack == "dynamic":
        dynamic = DynamicSettings.model_validate(settings)
        length = count_positions(dynamic, prefix_tokens)
        _check_shape(state["generator.positions"], length, checkpoint)
        _check_rank(dynamic, state)
        if f"generator.blocks.{dynamic.depth - 1}.qkv.weight" not in state:
            raise ValueError(f"fewer blocks than {dynamic.depth}")
        prompt = _build_dynamic(dynamic, prefix_tokens, state, checkpoint)
    else:
        raise ValueError(f"unknown attack {attack!r}")
    prompt.load_state_dict(state)
    return prompt.to(checkpoint.device).eval().requires_grad_(False)


# Shapes are checked before a prompt is built: settings alone could ask for more memory or blocks
# than the file holds.


def _check_shape(vectors: torch.Tensor, length: int, checkpoint: Checkpoint) -> None:
    if vectors.shape[-1] != checkpoint.width:
        raise ValueError(f"width {vectors.shape[-1]}, the target's is {checkpoint.width}")
    if vectors.shape != (length, checkpoint.width):
        raise ValueError("number of vectors does not match its settings")


def _check_rank(settings: TuningSettings, state: Mapping[str, torch.Tensor]) -> None:
    if settings.low_rank and state["change.into"].shape[-1] != settings.low_rank:
        raise ValueError("rank of the low-rank change does not match its settings")


def _build_dynamic(
    settings: DynamicSettings,
    prefix_tokens: int,
    state: Mapping[str, torch.Tensor],
    checkpoint: Checkpoint,
) -> DynamicPrompt:
    rows = None
    if "generator.rows.row_of" in state:
        if len(state["generator.rows.row_of"]) != checkpoint.vocabulary:
            raise ValueError("vocabulary size does not match")
        rows = TrainedRows(
            checkpoint.embed,
            torch.nonzero(state["generator.rows.row_of"] >= 0).flatten().to(checkpoint.device),
            checkpoint.vocabulary,
        )
    first = torch.zeros(settings.num_virtual_tokens, checkpoint.width)
    generator = Generator(
        checkpoint.embed,
        settings,
        prefix_tokens=prefix_tokens,
        first_vectors=first,
        scale=1.0,  # replaced by the loaded state
        rows=rows,
        rng=torch.Generator(),
    )
    return DynamicPrompt(settings, generator, torch.Generator())
