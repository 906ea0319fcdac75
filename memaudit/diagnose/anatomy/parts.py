"""Which calls of a trial pass are the decoder blocks, and what of one is its feed-forward part.

Knows the calls of a trial pass, and finds out by repeating them. Letters as in trial.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memaudit.diagnose.anatomy.trial import (
    EVERYWHERE,
    TOKENS,
    Call,
    by_position,
    changed,
    has_matrices,
    is_affine,
    noise_at,
    outputs_replaced,
    replay,
    same,
)


def block_calls(root: Call) -> list[Call]:
    """The calls of the members of the longest list of modules that lies in no other such list."""
    lists = [one for one in root.module.modules() if isinstance(one, nn.ModuleList)]
    found: list[list[Call]] = []
    for one in lists:
        members = set(one)
        calls = [call for call in root.walk() if call.module in members]
        if calls and all(_passes_on(call, calls[0]) for call in calls):
            found.append(calls)
    outer = [
        calls
        for calls in found
        if not any(_lies_in(calls[0], other) for other in found if other is not calls)
    ]
    return max(outer, key=len, default=[])


def _passes_on(call: Call, like: Call) -> bool:
    shapes = [one.shape for one in (call.states, call.output, like.output) if one is not None]
    if len(shapes) < 3 or len(shapes[0]) != 3:
        return False
    return shapes[0] == shapes[1] == shapes[2]


def _lies_in(call: Call, others: Sequence[Call]) -> bool:
    return any(inner is call for other in others for inner in other.walk())


def outermost(call: Call, wanted: Callable[[Call], bool]) -> Iterator[Call]:
    """Calls inside one for which it holds, and none inside those."""
    for one in call.inner:
        if wanted(one):
            yield one
        else:
            yield from outermost(one, wanted)


@dataclass(frozen=True, eq=False)
class FeedForward:
    """The modules whose output is all that the feed-forward part of a block adds."""

    down: tuple[nn.Module, ...] = ()
    """Linear layers: (B,T,M) -> (B,T,D)."""
    widths: tuple[int, ...] = ()
    """M of each."""
    whole: tuple[nn.Module, ...] = ()
    """Or else whole modules: (B,T,D) -> (B,T,D)."""


def find_feed_forward(block: Call, mixers: Sequence[Call]) -> FeedForward:
    """The feed-forward part of a block; an empty one where none can be taken away cleanly."""
    outside = list(_outside(block, mixers))
    silent = [_last_write(one, _width(block.output)) for one in mixers]
    down = _fed_without(silent, block, _last_projections(block, outside))
    if down and _removes_all(block, silent, outside, [one.module for one in down]):
        widths = tuple(_width(one.states) for one in down)
        return FeedForward(tuple(one.module for one in down), widths)
    whole = _fed_without(silent, block, list(_whole_modules(block, mixers)))
    if whole and _removes_all(block, silent, outside, [one.module for one in whole]):
        return FeedForward(whole=tuple(one.module for one in whole))
    return FeedForward()


def _outside(call: Call, mixers: Sequence[Call]) -> Iterator[Call]:
    """All calls in a block that are neither of a mixer nor inside one."""
    for one in call.inner:
        if not any(one is mixer for mixer in mixers):
            yield one
            yield from _outside(one, mixers)


def _last_projections(block: Call, outside: Sequence[Call]) -> list[Call]:
    """Linear layers, as wide as the block, whose output reaches no other linear layer in it."""
    linear: list[Call] = []
    for one in outside:  # an adapter's layer is one with what it is made of
        if not any(inner is one for outer in linear for inner in outer.walk()) and is_affine(one):
            linear.append(one)
    last = [one for one in linear if _width(one.output) == _width(block.output)]
    return [one for one in last if not _reaches(block, one, linear)]


def _reaches(block: Call, one: Call, others: Sequence[Call]) -> bool:
    """Whether another linear layer is given something else when this one's output is noise."""
    listened = [other for other in others if other.module is not one.module]
    plain = _given(block, listened)
    with outputs_replaced([one.module], EVERYWHERE):
        moved = _given(block, listened)
    return any(
        not same(moved[place], plain[place], plain[place], block)
        for place in plain
        if place in moved
    )


def _given(
    block: Call, calls: Sequence[Call], change: Callable[[Tensor], Tensor] = torch.clone
) -> dict[int, Tensor]:
    """What each module is given by position when the block is called once more."""
    found: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for place, call in enumerate(calls):

            def listen(module: nn.Module, args: Any, kwargs: Any, place: int = place) -> None:
                states = Call(module, args, kwargs).states
                if states is not None:
                    found[place] = states.float()

            listening = call.module.register_forward_pre_hook(listen, with_kwargs=True)
            hooks.callback(listening.remove)
        replay(block, change)
    return found


def _whole_modules(call: Call, mixers: Sequence[Call]) -> Iterator[Call]:
    """The outermost modules with matrices that hold no mixer and are as wide as the block."""
    for one in call.inner:
        if any(one is mixer for mixer in mixers) or not has_matrices(one.module):
            continue
        if any(inner is mixer for inner in one.walk() for mixer in mixers):
            yield from _whole_modules(one, mixers)
        elif _width(one.output) == _width(call.output):
            yield one


def _fed_without(silent: Sequence[nn.Module], block: Call, calls: list[Call]) -> list[Call]:
    """Those that are given something with all mixers silenced; the others only pass these on."""
    with outputs_replaced(silent, torch.zeros_like):
        one, two = _given(block, calls), _given(block, calls, EVERYWHERE)
    return [
        call
        for place, call in enumerate(calls)
        if place in one and not same(one[place], two[place], two[place], block)
    ]


def _removes_all(
    block: Call, silent: Sequence[nn.Module], outside: Sequence[Call], modules: Sequence[nn.Module]
) -> bool:
    """Whether with these modules' output at zero nothing but the residual path is left.

    Tried with the mixers silenced too, each at its last linear layer (some add the residual
    stream to what they give). Then the block gives what it was given; or, where its norms stand
    on the residual path, something of each position alone that differs with it, and whatever
    matrices are left are given noise without a change.
    """
    with outputs_replaced([*modules, *silent], torch.zeros_like):
        bare = replay(block)
        states = block.states
        if bare is None or states is None:
            return False
        if torch.equal(bare, states.float()):  # x + 0 is x to the last bit
            return True
        other, first = replay(block, EVERYWHERE), replay(block, noise_at([0]))
        if other is None or first is None or not _differ_everywhere(other, bare):
            return False
        if not same(first[:, 1:], bare[:, 1:], bare, block):
            return False
        matrices = [one.module for one in outside if has_matrices(one.module, itself=True)]
        with ExitStack() as hooks:
            for module in matrices:
                listening = module.register_forward_pre_hook(_drown, with_kwargs=True)
                hooks.callback(listening.remove)
            drowned = replay(block)
    return drowned is not None and torch.equal(drowned, bare)


def _drown(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return changed(args, kwargs, EVERYWHERE)


def _last_write(mixer: Call, width: int) -> nn.Module:
    """The linear layer that a mixer ends with, or the mixer itself."""
    wide = [one for one in mixer.walk() if _width(one.output) == width and is_affine(one)]
    return wide[-1].module if wide else mixer.module


def _differ_everywhere(one: Tensor, two: Tensor) -> bool:
    far = (one - two).abs().amax(dim=-1)  # (B,T)
    return bool((far > 1e-2 * two.abs().max()).all()) and far.shape[1] == TOKENS


def _width(states: Tensor | None) -> int:
    return 0 if states is None or not by_position(states) else states.shape[-1]
