"""Hidden states of windows, block by block, of a model and of its twin that was never trained.

Knows blocks, passes and how a model is made of a config. Knows nothing of probes. N stands for
windows, L for the blocks that are looked at, D for the width of their states.
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

from memaudit.attack.extraction import Advance
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
"""``border``: the last token of the prefix, where nothing of the suffix has been seen yet, so that
only what the model expects can tell windows apart. ``suffix``: the mean over all positions that
foretell a suffix token, where the suffix itself is seen too."""


@dataclass(frozen=True, eq=False)
class Representations:
    """Hidden states of N windows."""

    blocks: tuple[int, ...]
    """(L) numbers of the blocks, from 0."""
    states: dict[Place, npt.NDArray[np.float32]]
    """(N,L,D) each; may hold what is no number."""


def spaced(blocks: Sequence[Block], most: int) -> tuple[Block, ...]:
    """At most so many of the blocks, evenly spaced; of several the first and the last are there."""
    if len(blocks) <= most:
        return tuple(blocks)
    at = np.unique(np.linspace(len(blocks) - 1, 0, most).round().astype(int))
    return tuple(blocks[number] for number in at)


def represent(
    passes: Passes,
    blocks: Sequence[Block],
    ids: npt.NDArray[np.int32],
    advance: Advance = lambda done: None,
) -> Representations:
    """What the blocks (L) give for ids (N,P+S), N at least 1."""
    suffix = ids.shape[1] - passes.prefix_tokens
    with hidden_states(blocks) as heard:

        def read(passed: Pass) -> dict[str, Tensor]:
            # Some architectures hand their states on in float32; blocks may be on many devices.
            last = [heard[block.number][:, -suffix:].float() for block in blocks]
            return {
                "border": torch.stack([one[:, 0].cpu() for one in last], dim=1),
                "suffix": torch.stack([one.mean(dim=1).cpu() for one in last], dim=1),
            }

        found = passes.read(ids, read, advance, last=1)
    numbers = tuple(block.number for block in blocks)
    return Representations(numbers, {place: found[place] for place in PLACES})


def untrained_twin(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """A model of the same config, in the same number format, with random weights.

    Of an adapter's base, and not quantised. Its weights are drawn as its makers start training.

    Raises:
        TargetError: it cannot be made, or there is no room for it beside the audited one.
    """
    base = base_of(checkpoint.model)
    if checkpoint.is_spread:
        raise _no_twin(checkpoint, "the model is spread, which leaves no room for a second one")
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # CUDA's are left alone
            twin = type(base)._from_config(config, dtype=checkpoint.dtype)
        twin = twin.to(checkpoint.device).requires_grad_(requires_grad=False).eval()
    except FAILURES as error:
        why = "no memory" if is_out_of_memory(error) else brief(error)
        raise _no_twin(checkpoint, why) from error
    return replace(checkpoint, model=twin, quantization=None, fingerprint={}, choices={})


def _no_twin(checkpoint: Checkpoint, why: str) -> TargetError:
    return TargetError(
        f"{checkpoint.name}: no {architecture_of(checkpoint)} with random weights can be made: "
        f"{why}"
    )
