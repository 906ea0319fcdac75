"""Concentration of a model's attention by layer, of each window, read in one pass.

Knows groups of windows, and which modules of a loaded model return attention weights, which it
reduces during the pass. Letters: N windows, of which B are in a pass, H heads, T positions of the
input, S of the suffix, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memaudit.attack.journal import Progress
from memaudit.diagnose.anatomy.blocks import Block, find_blocks, inside, refusal
from memaudit.diagnose.anatomy.parts import block_calls
from memaudit.diagnose.anatomy.trial import ROWS, TOKENS, Call, trial_pass
from memaudit.diagnose.attention.settings import AttentionSettings
from memaudit.diagnose.groups import by_group, ids_of, sample_groups
from memaudit.diagnose.passes import Pass, Passes, padding_of
from memaudit.diagnose.subject import Subject
from memaudit.score.stats import Floats, Ints
from memaudit.system.memory import is_out_of_memory
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.failures import FAILURES, brief, quiet_transformers
from memaudit.target.placement import base_of
from memaudit.target.softprompt_check import random_ids

FIGURES = ("entropy", "largest", "first")
"""Figures of attention, averaged over heads and the positions that predict the suffix: entropy as
a share of its maximum, the log of the number of positions seen; largest weight; weight of the first
position."""
_OVER_ONE = 1e-2
"""Tolerance by which the weights of a position may sum to more than 1, in half precision."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Figures of a group of windows."""

    name: str
    clusters: Ints
    """(N,)."""
    figures: Mapping[str, Floats]
    """(N,L) figures by name, of `FIGURES`."""

    def __len__(self) -> int:
        return len(self.clusters)


@dataclass(frozen=True, eq=False)
class Measurements:
    """Attention of all groups."""

    groups: Mapping[str, Windows]
    """Groups by name, in the order of the legend; none is empty."""
    blocks: Sequence[int]
    """(L,) numbers of the blocks that were read."""
    depth: int
    """Blocks of the model."""
    whole: bool
    """True if the weights of each position sum to 1, False if a sink takes a share."""
    has_controls: bool


@dataclass(frozen=True, eq=False)
class Layer:
    """Block whose attention weights can be read."""

    block: Block
    source: nn.Module
    """Module in the block that returns them, among other values."""
    whole: bool
    """True if the weights of a position sum to 1; with attention sinks they sum to less."""


@dataclass(frozen=True, eq=False)
class Layers:
    """Layers with attention weights, and the options that make the model return them."""

    layers: tuple[Layer, ...]
    blocks: int
    """All blocks of the model."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of its forward."""


def measure(subject: Subject, settings: AttentionSettings, progress: Progress) -> Measurements:
    """Read the attention of all groups in one pass over each window.

    Raises:
        TargetError: the model gives no attention weights.
    """
    with eager_attention(subject.checkpoint):
        layers = find_layers(subject.checkpoint)
        groups = _read(subject, layers, settings, progress)
    return Measurements(
        groups=groups,
        blocks=[layer.block.number for layer in layers.layers],
        depth=layers.blocks,
        whole=all(layer.whole for layer in layers.layers),
        has_controls=subject.controls is not None,
    )


def _read(
    subject: Subject, layers: Layers, settings: AttentionSettings, progress: Progress
) -> dict[str, Windows]:
    """Return the figures by group, in the order of the legend; no group is empty."""
    data, rng = subject.data, np.random.default_rng([settings.seed, 0])
    masks = {"extracted": data.extracted, "hidden": data.hidden, "not extracted": data.untouched}
    parts = {
        name: part
        for name, part in sample_groups(subject, masks, settings.windows, rng).items()
        if len(part) and subject.disclosure.admits(name, part.clusters)
    }
    if not parts:
        return {}
    ids = ids_of(parts)
    passes = subject.passes(**layers.options)
    counts = visible(passes, layers, ids.shape[1] - int(padding_of(ids).min()))

    def reduce(number: int, weights: Tensor) -> Tensor:
        seen = counts[number][: weights.shape[2]]  # a shorter window sees as much at each position
        return concentration(weights, seen[-subject.suffix_tokens :])

    with (
        progress.stage("attention", len(ids)) as advance,
        reduced(layers.layers, reduce) as latest,
    ):
        figures = passes.read(ids, lambda batch: stacked(latest, layers.layers, batch), advance)
    return {
        name: Windows(name, parts[name].clusters, own)
        for name, own in by_group(parts, figures).items()
    }


def find_layers(checkpoint: Checkpoint) -> Layers:
    """Find the modules that return attention weights; call within `eager_attention`.

    Raises:
        TargetError: no module returns them.
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
        candidates = [_layer(*pair) for pair in zip(blocks, calls, strict=True)]
        if any(candidates):
            layers = tuple(layer for layer in candidates if layer is not None)
            return Layers(layers, len(blocks), options)
    raise refusal(checkpoint, "none of its blocks gives attention weights")


@contextmanager
def eager_attention(checkpoint: Checkpoint) -> Iterator[None]:
    """Switch to eager attention, which computes readable weights, and back on exit."""
    model = base_of(checkpoint.model)
    configs = [part.config for part in model.modules() if hasattr(part, "config")]
    configs += [getattr(config, name, None) for config in configs for name in _parts(config)]
    name = "_attn_implementation_internal"
    before = [(config, getattr(config, name)) for config in configs if hasattr(config, name)]
    try:
        # A model that cannot switch may give weights anyway.
        with quiet_transformers(), suppress(*FAILURES):
            model.set_attn_implementation("eager")
        yield
    finally:
        for config, value in before:
            setattr(config, name, value)


def _parts(config: Any) -> Sequence[str]:
    return tuple(getattr(config, "sub_configs", ()))


def _layer(block: Block, call: Call) -> Layer | None:
    for inner in call.walk():
        weights = weights_in(inner.result, ROWS, TOKENS)
        if weights is not None and _are_weights(weights):
            sums = weights.float().sum(dim=-1)
            return Layer(block, inner.module, bool((sums > 1 - _OVER_ONE).all()))
    return None


def weights_in(result: Any, rows: int, tokens: int) -> Tensor | None:
    """Return the first (B,H,T,T) among the results of a module."""
    parts = result if isinstance(result, (tuple, list)) else ()
    return next(
        (
            part
            for part in parts
            if isinstance(part, Tensor)
            and part.dim() == 4
            and (part.shape[0], *part.shape[2:]) == (rows, tokens, tokens)
        ),
        None,
    )


def _are_weights(weights: Tensor) -> bool:
    """Return whether (B,H,T,T) are shares over the positions up to each position."""
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
    """Collect ``reduce(block number, weights (B,H,T,T))`` by block number, for the latest pass.

    The weights themselves are freed during the pass.
    """
    latest: dict[int, Tensor] = {}
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
                    latest[number] = reduce(number, weights)

            hooks.callback(layer.source.register_forward_hook(listen).remove)
        yield latest


def visible(passes: Passes, layers: Layers, tokens: int) -> dict[int, Tensor]:
    """Count the places (T,) that each position of windows of ``tokens`` sees, by block number.

    A position sees the places from the first with attention up to itself (all, or a sliding
    window). The first is taken over all heads and a few windows of random tokens: a single weight
    may be too small to differ from 0, and audited windows must not decide what counts as visible.
    Positions count from the start, so those of shorter windows see as many.
    """

    def reach(number: int, weights: Tensor) -> Tensor:
        looked = (weights > 0).any(dim=1)  # (B,T,T)
        own = torch.arange(weights.shape[2], device=looked.device)
        return own + 1 - looked.int().argmax(dim=-1)

    ids = random_ids(passes.checkpoint, ROWS, tokens).cpu().numpy().astype(np.int32)
    with reduced(layers.layers, reach) as latest:
        per_window = passes.read(
            ids, lambda batch: {str(number): latest[number] for number in latest}, last=1
        )
    return {
        int(number): torch.as_tensor(counts.max(axis=0)) for number, counts in per_window.items()
    }


def concentration(weights: Tensor, counts: Tensor) -> Tensor:
    """Return the `FIGURES` (B,3) of weights (B,H,T,T) at the last S positions.

    counts: (S,) number of places that each position sees.
    """
    attention = weights[:, :, -len(counts) :].float()
    attention = attention / attention.sum(dim=-1, keepdim=True)  # where a sink has taken a share
    largest = counts.to(attention.device).clamp_min(2).log()
    entropy = torch.special.entr(attention).sum(dim=-1) / largest
    figures = (entropy, attention.amax(dim=-1), attention[..., 0])  # (B,H,S) each
    return torch.stack([figure.mean(dim=(1, 2)) for figure in figures], dim=1)


def stacked(
    latest: Mapping[int, Tensor], layers: Sequence[Layer], batch: Pass
) -> dict[str, Tensor]:
    """Return the figures of a pass by name, each (B,L)."""
    device = batch.logits.device
    table = torch.stack([latest[layer.block.number].to(device) for layer in layers], dim=1)
    return {name: table[..., place].double() for place, name in enumerate(FIGURES)}
