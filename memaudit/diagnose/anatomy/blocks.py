"""The decoder blocks of a loaded model, and passes with a part of one taken away.

Knows modules by what they do in a trial pass: which of them mix positions, and which write into the
residual stream what they make of each position alone. Nothing is known by name or family, every
ablation is tried before it is offered, and the weights are never touched: all is done by hooks,
which the context managers take away again. Letters: B windows, T positions, D width of the hidden
states, M units of a feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
    """One decoder block, and what of it can be taken away."""

    number: int
    """From 0, in the order in which a pass goes through them."""
    module: nn.Module
    attention: nn.Module | None
    """Its attention; None where it has none that can be brought to the identity pattern."""
    pattern: Pattern | None
    """How it is brought there."""
    mixers: tuple[nn.Module, ...]
    """The outermost modules in it that carry something from one position to another."""
    down: tuple[nn.Module, ...]
    """The linear layers that write all that its feed-forward part adds to the residual stream, seen
    by every position: (B,T,M) in, (B,T,D) out, with M the sum over them of `widths`. Empty where
    there are none, as where experts are fused into one parameter."""
    widths: tuple[int, ...]
    """Units before each of ``down``."""
    feed_forward: tuple[nn.Module, ...]
    """Whole modules whose output is all that the feed-forward part adds; only where ``down`` is
    empty. Where both are empty, the block has no feed-forward part that can be taken away."""

    @property
    def units(self) -> int:
        """M; 0 where ``down`` is empty."""
        return sum(self.widths)

    @property
    def has_feed_forward(self) -> bool:
        """Whether it can be taken away."""
        return bool(self.down or self.feed_forward)


def find_blocks(checkpoint: Checkpoint) -> tuple[Block, ...]:
    """The decoder blocks of a model that was loaded, in their order.

    Raises:
        TargetError: no list of modules that each map hidden states (B,T,D) to hidden states.
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
    """That a model cannot be looked into, by the name of its class."""
    return TargetError(
        f"{checkpoint.name}: {architecture_of(checkpoint)} cannot be taken apart: {why}"
    )


def _describe(calls: Sequence[Call]) -> tuple[Block, ...]:
    mixers = [list(outermost(call, mixes)) for call in calls]
    patterns = [[(one, find_pattern(one)) for one in several] for several in mixers]
    kinds = {type(one.module) for several in patterns for one, pattern in several if pattern}
    blocks = []
    for number, call in enumerate(calls):
        taken = set(map(id, mixers[number]))
        # Attention whose output is zero mixes nothing that could be seen, and is attention still.
        quiet = [
            one
            for one in outermost(call, lambda one: id(one) in taken or type(one.module) in kinds)  # noqa: B023
            if id(one) not in taken
        ]
        known = [*patterns[number], *((one, find_pattern(one)) for one in quiet)]
        able = [(one.module, pattern) for one, pattern in known if pattern is not None]
        attention, pattern = able[0] if len(able) == 1 else (None, None)
        fed = find_feed_forward(call, [one for one, _ in known])
        blocks.append(
            Block(
                number=number,
                module=call.module,
                attention=attention,
                pattern=pattern,
                mixers=tuple(one.module for one, _ in known),
                down=fed.down,
                widths=fed.widths,
                feed_forward=fed.whole,
            )
        )
    return tuple(blocks)


@contextmanager
def without_attention(block: Block) -> Iterator[None]:
    """Passes in which each position of this block attends to itself alone; it has attention."""
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
    """Passes in which the feed-forward part of this block, which it has, adds nothing."""
    if not block.has_feed_forward:
        raise ValueError(f"block {block.number} has no feed-forward part to take away")
    with (
        inside(block) as now,
        outputs_replaced(
            block.down or block.feed_forward, lambda out: torch.zeros_like(out) if now else out
        ),
    ):
        yield


@contextmanager
def hidden_states(blocks: Sequence[Block]) -> Iterator[Mapping[int, Tensor]]:
    """What each block gives in the pass just made: its number -> (B,T,D)."""
    found: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for block in blocks:

            def listen(module: nn.Module, args: Any, result: Any, at: int = block.number) -> None:
                found[at] = result if isinstance(result, Tensor) else result[0]

            hooks.callback(block.module.register_forward_hook(listen).remove)
        yield found


@contextmanager
def unit_inputs(blocks: Sequence[Block]) -> Iterator[Mapping[int, Tensor]]:
    """What the down projections of each block are given in the pass just made: its number ->
    (B,T,M); nothing of blocks that have none.
    """
    found: dict[int, Tensor] = {}
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
                    found[block.number] = torch.cat(whole, dim=-1) if whole[1:] else whole[0]

            hooks.enter_context(down_inputs(block, listen))
        yield found


@contextmanager
def silenced(
    blocks: Sequence[Block],
    units: Mapping[int, Sequence[int]],
    values: Mapping[int, Sequence[float]] | None = None,
) -> Iterator[None]:
    """Passes in which chosen units, number of the block -> places below M, are 0 at every position.

    values: or these numbers instead, one for each of the units.
    """
    with ExitStack() as hooks:
        for block in blocks:
            chosen = torch.as_tensor(units.get(block.number, ()), dtype=torch.long)
            if not len(chosen):
                continue
            given = torch.zeros(len(chosen))
            if values is not None:
                given = torch.as_tensor(values[block.number], dtype=torch.float32)
            if int(chosen.min()) < 0 or int(chosen.max()) >= block.units:
                raise ValueError(f"block {block.number} has {block.units} units")
            hooks.enter_context(down_inputs(block, _silencer(block, chosen, given)))
        yield


def _silencer(block: Block, chosen: Tensor, values: Tensor) -> Change:
    """What `down_inputs` is to do with each of the down projections."""
    starts = [sum(block.widths[:place]) for place in range(len(block.down))]

    def change(place: int, units: Tensor) -> Tensor:
        mine = (chosen >= starts[place]) & (chosen < starts[place] + block.widths[place])
        at = (chosen[mine] - starts[place]).to(units.device)
        return units.index_copy(-1, at, values[mine].to(units).expand(*units.shape[:-1], -1))

    return change


Change = Callable[[int, Tensor], Tensor | None]
"""Given which of a block's down projections it is and what enters it, (B,T,M), what is to enter
instead; None for the same."""


@contextmanager
def down_inputs(block: Block, change: Change) -> Iterator[None]:
    """Let what enters a block's down projections be something else in every pass meanwhile."""
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
    """A list that holds (B,T) while a pass is inside the block, and nothing elsewhere.

    Blocks may share modules (Zamba 2), and only those of one are meant.
    """
    now: list[tuple[int, int]] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        states = next(
            one
            for one in (*args, *kwargs.values())
            if isinstance(one, Tensor) and one.dim() == 3 and one.is_floating_point()
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
