"""Decoder blocks of a loaded model, and passes with one of their parts removed.

Knows modules by their effect in a trial pass: which mix positions, and which add to the residual
stream an output for each position alone. Uses no names or families, tests every ablation before it
offers it, and never changes weights: context managers add hooks and remove them again. Letters: B
windows, T positions, D width of the hidden states, M units of a feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from memaudit.diagnose.anatomy.identity import Pattern, find_pattern
from memaudit.diagnose.anatomy.parts import block_calls, find_feed_forward, outermost
from memaudit.diagnose.anatomy.trial import Call, mixes, outputs_replaced, trial_pass
from memaudit.errors import TargetError
from memaudit.system.memory import is_out_of_memory
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.failures import FAILURES, brief, quiet_transformers
from memaudit.target.softprompt_check import architecture_of


@dataclass(frozen=True, eq=False)
class Block:
    """Decoder block, and the parts of it that can be removed."""

    number: int
    """Place in a pass, from 0."""
    module: nn.Module
    attention: nn.Module | None
    """Attention module; None if the block has none that accepts the identity pattern."""
    pattern: Pattern | None
    """Mask that sets the attention to the identity pattern."""
    mixers: tuple[nn.Module, ...]
    """Outermost modules in the block that pass information from one position to another."""
    down: tuple[nn.Module, ...]
    """Linear layers whose outputs are all that the feed-forward part adds to the residual stream:
    (B,T,M) in, (B,T,D) out, with M the sum of `widths`. Empty if there are none, as with experts
    fused into one parameter."""
    widths: tuple[int, ...]
    """Number of units before each of ``down``."""
    feed_forward: tuple[nn.Module, ...]
    """Whole modules whose outputs are all that the feed-forward part adds; empty unless ``down`` is
    empty. If both are empty, the block has no removable feed-forward part."""

    @property
    def units(self) -> int:
        """M; 0 if ``down`` is empty."""
        return sum(self.widths)

    @property
    def has_feed_forward(self) -> bool:
        """True if the feed-forward part can be removed."""
        return bool(self.down or self.feed_forward)


def find_blocks(checkpoint: Checkpoint) -> tuple[Block, ...]:
    """Return the decoder blocks of a loaded model, in their order.

    Raises:
        TargetError: the model has no list of modules that map hidden states (B,T,D) to hidden
            states.
    """
    try:
        with quiet_transformers():
            blocks = _describe(block_calls(trial_pass(checkpoint)))
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        raise refusal(checkpoint, f"a trial pass fails ({brief(error)})") from error
    if not any(block.mixers for block in blocks):
        raise refusal(checkpoint, "it has no list of blocks that pass hidden states on")
    return blocks


def refusal(checkpoint: Checkpoint, why: str) -> TargetError:
    """Return the error for a model that cannot be taken apart; it names the class."""
    return TargetError(
        f"{checkpoint.name}: {architecture_of(checkpoint)} cannot be taken apart: {why}"
    )


def _describe(calls: Sequence[Call]) -> tuple[Block, ...]:
    mixers = [list(outermost(call, mixes)) for call in calls]
    patterns = [[(mixer, find_pattern(mixer)) for mixer in group] for group in mixers]
    kinds = {type(mixer.module) for group in patterns for mixer, pattern in group if pattern}
    blocks = []
    for number, call in enumerate(calls):
        taken = set(map(id, mixers[number]))
        # Attention with zero output shows no mixing in the trial, but is attention all the same.
        wanted = partial(_is_mixer, mixers=taken, kinds=kinds)
        quiet = [mixer for mixer in outermost(call, wanted) if id(mixer) not in taken]
        known = [*patterns[number], *((mixer, find_pattern(mixer)) for mixer in quiet)]
        able = [(mixer.module, pattern) for mixer, pattern in known if pattern is not None]
        attention, pattern = able[0] if len(able) == 1 else (None, None)
        feed_forward = find_feed_forward(call, [mixer for mixer, _ in known])
        blocks.append(
            Block(
                number=number,
                module=call.module,
                attention=attention,
                pattern=pattern,
                mixers=tuple(mixer.module for mixer, _ in known),
                down=feed_forward.down,
                widths=feed_forward.widths,
                feed_forward=feed_forward.whole,
            )
        )
    return tuple(blocks)


def _is_mixer(call: Call, mixers: set[int], kinds: set[type[nn.Module]]) -> bool:
    return id(call) in mixers or type(call.module) in kinds


@contextmanager
def without_attention(block: Block) -> Iterator[None]:
    """Make each position of this block, which has attention, attend to itself alone."""
    if block.attention is None or block.pattern is None:
        raise ValueError(f"block {block.number} has no attention to replace")
    pattern = block.pattern
    with inside(block) as now:

        def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
            return pattern.apply(module, args, kwargs) if now else None

        listening = block.attention.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            listening.remove()


@contextmanager
def without_feed_forward(block: Block) -> Iterator[None]:
    """Make the feed-forward part of this block, which has one, add nothing."""
    if not block.has_feed_forward:
        raise ValueError(f"block {block.number} has no feed-forward part to remove")
    with (
        inside(block) as now,
        outputs_replaced(
            block.down or block.feed_forward, lambda out: torch.zeros_like(out) if now else out
        ),
    ):
        yield


@contextmanager
def hidden_states(blocks: Sequence[Block]) -> Iterator[Mapping[int, Tensor]]:
    """Record the output (B,T,D) of each block in the latest pass, by block number."""
    latest: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for block in blocks:

            def listen(module: nn.Module, args: Any, result: Any, at: int = block.number) -> None:
                latest[at] = result if isinstance(result, Tensor) else result[0]

            hooks.callback(block.module.register_forward_hook(listen).remove)
        yield latest


@contextmanager
def unit_inputs(blocks: Sequence[Block]) -> Iterator[Mapping[int, Tensor]]:
    """Record the input (B,T,M) of the down projections in the latest pass, by block number.

    Blocks without down projections have no entry.
    """
    latest: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for block in blocks:
            parts: dict[int, Tensor] = {}

            def listen(
                place: int,
                units: Tensor,
                block: Block = block,
                parts: dict[int, Tensor] = parts,
            ) -> None:
                parts[place] = units
                if len(parts) == len(block.down):
                    whole = [parts.pop(at) for at in range(len(block.down))]
                    latest[block.number] = torch.cat(whole, dim=-1) if whole[1:] else whole[0]

            hooks.enter_context(down_inputs(block, listen))
        yield latest


Change = Callable[[int, Tensor], Tensor | None]
"""Maps the place of a down projection in its block and its input (B,T,M) to a new input; None keeps
the input."""


@contextmanager
def down_inputs(block: Block, change: Change) -> Iterator[None]:
    """Change the inputs of a block's down projections in every pass."""
    with inside(block) as now, ExitStack() as hooks:
        for place, module in enumerate(block.down):

            def hook(module: nn.Module, args: Any, kwargs: Any, place: int = place) -> Any:
                if not now:
                    return None
                given = {**dict(enumerate(args)), **kwargs}
                ((name, units),) = given.items()
                other = change(place, units.view(*now[0], units.shape[-1]))
                if other is None:
                    return None
                other = other.view(units.shape)
                return ((other,), {}) if args else ((), {name: other})

            listening = module.register_forward_pre_hook(hook, with_kwargs=True)
            hooks.callback(listening.remove)
        yield


@contextmanager
def inside(block: Block) -> Iterator[list[tuple[int, int]]]:
    """Yield a list that holds (B,T) while a pass is inside the block, and is empty otherwise.

    Blocks may share modules (Zamba 2); the list tells calls by this block from others.
    """
    now: list[tuple[int, int]] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        states = next(
            value
            for value in (*args, *kwargs.values())
            if isinstance(value, Tensor) and value.dim() == 3 and value.is_floating_point()
        )
        now[:] = [(states.shape[0], states.shape[1])]

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        now.clear()

    entering = block.module.register_forward_pre_hook(enter, with_kwargs=True)
    leaving = block.module.register_forward_hook(leave, always_call=True)
    try:
        yield now
    finally:
        entering.remove()
        leaving.remove()
