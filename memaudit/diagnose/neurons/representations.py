"""Hidden states of windows by block, for a model and its untrained twin.

Knows blocks, passes and how to build a model from a config. Knows no probes. N: windows, L: probed
blocks, D: width of the states.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memaudit.attack.journal import Advance
from memaudit.diagnose.anatomy.blocks import Block, hidden_states
from memaudit.diagnose.passes import Pass, Passes
from memaudit.errors import TargetError
from memaudit.system.memory import is_out_of_memory
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.failures import FAILURES, brief, quiet_transformers
from memaudit.target.placement import base_of
from memaudit.target.softprompt_check import architecture_of

Place = Literal["border", "suffix"]
PLACES: tuple[Place, ...] = ("border", "suffix")
"""``border``: the last token of the prefix, before any suffix token, so that only the model's
expectation can separate windows. ``suffix``: the mean over all positions that predict a suffix
token, which includes the suffix itself."""


@dataclass(frozen=True, eq=False)
class Representations:
    """Hidden states of N windows."""

    blocks: tuple[int, ...]
    """(L) block numbers, from 0."""
    states: dict[Place, npt.NDArray[np.float32]]
    """(N,L,D) states by place; may hold NaN or infinity."""


def spaced(blocks: Sequence[Block], limit: int) -> tuple[Block, ...]:
    """Return at most ``limit`` blocks, evenly spaced from the first to the last."""
    if len(blocks) <= limit:
        return tuple(blocks)
    positions = np.unique(np.linspace(len(blocks) - 1, 0, limit).round().astype(int))
    return tuple(blocks[number] for number in positions)


def represent(
    passes: Passes,
    blocks: Sequence[Block],
    ids: npt.NDArray[np.int32],
    advance: Advance = lambda done: None,
) -> Representations:
    """Return the states of the blocks (L) for ids (N,P+S), N at least 1."""
    suffix = ids.shape[1] - passes.prefix_tokens
    with hidden_states(blocks) as outputs:

        def read(passed: Pass) -> dict[str, Tensor]:
            # Some architectures return float32 states; blocks may be on several devices.
            last = [outputs[block.number][:, -suffix:].float() for block in blocks]
            return {
                "border": torch.stack([state[:, 0].cpu() for state in last], dim=1),
                "suffix": torch.stack([state.mean(dim=1).cpu() for state in last], dim=1),
            }

        states = passes.read(ids, read, advance, last=1)
    numbers = tuple(block.number for block in blocks)
    return Representations(numbers, {place: states[place] for place in PLACES})


def untrained_twin(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """Return a model of the same config and number format, with random weights.

    An adapter's twin is one of its base. The twin is not quantised and uses the architecture's
    initialisation.

    Raises:
        TargetError: it cannot be built, or does not fit in memory beside the audited model.
    """
    base = base_of(checkpoint.model)
    if checkpoint.is_spread:
        raise _no_twin(
            checkpoint, "the model is spread over devices, which leaves no room for a second model"
        )
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # leaves CUDA generators unchanged
            twin = type(base)._from_config(config, dtype=checkpoint.dtype)
        twin = twin.to(checkpoint.device).requires_grad_(requires_grad=False).eval()
    except FAILURES as error:
        why = "no memory" if is_out_of_memory(error) else brief(error)
        raise _no_twin(checkpoint, why) from error
    return replace(checkpoint, model=twin, quantization=None, fingerprint={}, choices={})


def _no_twin(checkpoint: Checkpoint, why: str) -> TargetError:
    return TargetError(
        f"{checkpoint.name}: no {architecture_of(checkpoint)} with random weights can be built: "
        f"{why}"
    )
