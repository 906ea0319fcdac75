"""How concentrated a model's attention is, layer by layer, read off in one pass.

Knows where a loaded model gives its attention weights away, and reduces them while the pass goes
on. Letters: B windows, H heads, T positions of the input, S of the suffix, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memaudit.diagnose.anatomy.blocks import Block, find_blocks, inside, refusal
from memaudit.diagnose.anatomy.parts import block_calls
from memaudit.diagnose.anatomy.trial import ROWS, TOKENS, Call, trial_pass
from memaudit.diagnose.passes import Pass, Passes
from memaudit.system.memory import is_out_of_memory
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.failures import FAILURES, brief, quiet_transformers
from memaudit.target.placement import base_of
from memaudit.target.softprompt_check import random_ids

FIGURES = ("entropy", "largest", "first")
"""Of the attention of one position, averaged over heads and the positions that foretell the suffix:
its entropy as a share of the largest that it could have, log of the number of positions seen; the
largest weight; and the weight of the first position of all."""
_OVER_ONE = 1e-2
"""By how much the weights of one position may add up to more than 1, in half precision."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A block whose attention weights can be had."""

    block: Block
    source: nn.Module
    """The module in it that returns them, beside other things."""
    whole: bool
    """Whether the weights of a position add up to 1; less where the model has attention sinks."""


@dataclass(frozen=True, eq=False)
class Layers:
    """All of them, and how the model is asked."""

    layers: tuple[Layer, ...]
    blocks: int
    """Blocks of the model, with those that give none."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """For its forward."""


def find_layers(checkpoint: Checkpoint) -> Layers:
    """Where the weights come out; within `eager_attention`.

    Raises:
        TargetError: nowhere.
    """
    blocks = find_blocks(checkpoint)
    for options in ({}, {"output_attentions": True}):
        try:
            with quiet_transformers():
                calls = block_calls(trial_pass(checkpoint, **options))
        except FAILURES as error:
            if is_out_of_memory(error):
                raise
            raise refusal(checkpoint, f"it gives no attention weights ({brief(error)})") from error
        found = [_layer(*pair) for pair in zip(blocks, calls, strict=True)]
        if any(found):
            layers = tuple(one for one in found if one is not None)
            return Layers(layers, len(blocks), options)
    raise refusal(checkpoint, "none of its blocks gives attention weights")


@contextmanager
def eager_attention(checkpoint: Checkpoint) -> Iterator[None]:
    """Attention worked out step by step, so that its weights are there to be read."""
    model = base_of(checkpoint.model)
    configs = [part.config for part in model.modules() if hasattr(part, "config")]
    configs += [getattr(one, name, None) for one in configs for name in _parts(one)]
    name = "_attn_implementation_internal"
    before = [(one, getattr(one, name)) for one in configs if hasattr(one, name)]
    try:
        # One that cannot switch may give weights anyway.
        with quiet_transformers(), suppress(*FAILURES):
            model.set_attn_implementation("eager")
        yield
    finally:
        for config, value in before:
            setattr(config, name, value)


def _parts(config: Any) -> Sequence[str]:
    return tuple(getattr(config, "sub_configs", ()))


def _layer(block: Block, call: Call) -> Layer | None:
    for one in call.walk():
        weights = weights_in(one.result, ROWS, TOKENS)
        if weights is not None and _are_weights(weights):
            sums = weights.float().sum(dim=-1)
            return Layer(block, one.module, bool((sums > 1 - _OVER_ONE).all()))
    return None


def weights_in(result: Any, rows: int, tokens: int) -> Tensor | None:
    """The first (B,H,T,T) in what a module returns."""
    parts = result if isinstance(result, (tuple, list)) else ()
    return next(
        (
            one
            for one in parts
            if isinstance(one, Tensor)
            and one.dim() == 4
            and (one.shape[0], *one.shape[2:]) == (rows, tokens, tokens)
        ),
        None,
    )


def _are_weights(weights: Tensor) -> bool:
    """Whether (B,H,T,T) are shares of what each position sees, itself and those before it."""
    if not weights.is_floating_point() or bool((weights < 0).any()):
        return False
    sums = weights.float().sum(dim=-1)
    return bool((sums <= 1 + _OVER_ONE).all() and (sums > 0).all()) and not bool(
        weights.triu(1).any()
    )


@contextmanager
def reduced(
    layers: Sequence[Layer], reduce: Callable[[int, Tensor], Tensor]
) -> Iterator[Mapping[int, Tensor]]:
    """Number of the block -> what is made of it and its weights (B,H,T,T), of the pass just made;
    the weights themselves are let go as the pass goes on.
    """
    found: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for layer in layers:
            now = hooks.enter_context(inside(layer.block))

            def listen(
                module: nn.Module,
                args: Any,
                result: Any,
                number: int = layer.block.number,
                now: Sequence[tuple[int, int]] = now,
            ) -> None:
                weights = weights_in(result, *now[0]) if now else None
                if weights is not None:
                    found[number] = reduce(number, weights)

            hooks.callback(layer.source.register_forward_hook(listen).remove)
        yield found


def visible(passes: Passes, layers: Layers, tokens: int) -> dict[int, Tensor]:
    """Number of the block -> (S,), how many places each position that foretells the suffix sees.

    Those from the first one to itself (all, or a sliding window) that any head looks at in any of
    a few windows of random tokens, as long as those to be read: a single weight may be too small
    to be told from 0, and what the windows to be read look at says nothing of what they see.
    """

    def reach(number: int, weights: Tensor) -> Tensor:
        looked = (weights[:, :, -suffix:] > 0).any(dim=1)  # (B,S,T)
        own = torch.arange(weights.shape[2] - suffix, weights.shape[2], device=looked.device)
        return own + 1 - looked.int().argmax(dim=-1)

    suffix = tokens - passes.prefix_tokens
    ids = random_ids(passes.checkpoint, ROWS, tokens).cpu().numpy().astype(np.int32)
    with reduced(layers.layers, reach) as found:
        seen = passes.read(ids, lambda one: {str(number): found[number] for number in found})
    return {int(number): torch.as_tensor(counts.max(axis=0)) for number, counts in seen.items()}


def concentration(weights: Tensor, seen: Tensor) -> Tensor:
    """(B,3) of weights (B,H,T,T): the `FIGURES`, of the last S positions.

    seen: (S,), how many places each of them sees.
    """
    mine = weights[:, :, -len(seen) :].float()
    mine = mine / mine.sum(dim=-1, keepdim=True)  # where a sink has taken a share
    entropy = torch.special.entr(mine).sum(dim=-1) / seen.to(mine.device).clamp_min(2).log()
    figures = (entropy, mine.amax(dim=-1), mine[..., 0])  # (B,H,S) each
    return torch.stack([one.mean(dim=(1, 2)) for one in figures], dim=1)


def stacked(found: Mapping[int, Tensor], layers: Sequence[Layer], one: Pass) -> dict[str, Tensor]:
    """The figures of one pass by name, each (B,L)."""
    device = one.logits.device
    table = torch.stack([found[layer.block.number].to(device) for layer in layers], dim=1)
    return {name: table[..., place].double() for place, name in enumerate(FIGURES)}
