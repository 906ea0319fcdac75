"""Decoder blocks among the calls of a trial pass, and the feed-forward part of each.

Knows the calls of a trial pass, and repeats them to test their effect. Letters as in trial.py.
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
    """Return the calls of the longest module list of blocks that lies in no other such list."""
    lists = [modules for modules in root.module.modules() if isinstance(modules, nn.ModuleList)]
    candidates: list[list[Call]] = []
    for modules in lists:
        members = set(modules)
        calls = [call for call in root.walk() if call.module in members]
        if calls and all(_passes_on(call, calls[0]) for call in calls):
            candidates.append(calls)
    outer = [
        calls
        for calls in candidates
        if not any(_lies_in(calls[0], other) for other in candidates if other is not calls)
    ]
    return max(outer, key=len, default=[])


def _passes_on(call: Call, like: Call) -> bool:
    shapes = [
        states.shape for states in (call.states, call.output, like.output) if states is not None
    ]
    if len(shapes) < 3 or len(shapes[0]) != 3:
        return False
    return shapes[0] == shapes[1] == shapes[2]


def _lies_in(call: Call, outer: Sequence[Call]) -> bool:
    return any(inner is call for other in outer for inner in other.walk())


def outermost(call: Call, wanted: Callable[[Call], bool]) -> Iterator[Call]:
    """Yield the outermost calls inside ``call`` for which ``wanted`` holds."""
    for inner in call.inner:
        if wanted(inner):
            yield inner
        else:
            yield from outermost(inner, wanted)


@dataclass(frozen=True, eq=False)
class FeedForward:
    """Modules whose outputs are all that the feed-forward part of a block adds."""

    down: tuple[nn.Module, ...] = ()
    """Linear layers: (B,T,M) -> (B,T,D)."""
    widths: tuple[int, ...] = ()
    """M of each."""
    whole: tuple[nn.Module, ...] = ()
    """Whole modules, (B,T,D) -> (B,T,D), if there are no such linear layers."""


def find_feed_forward(block: Call, mixers: Sequence[Call]) -> FeedForward:
    """Find the feed-forward part of a block; empty if none can be removed cleanly."""
    outside = list(_outside(block, mixers))
    silent = [_last_write(call, _width(block.output)) for call in mixers]
    down = _fed_without(silent, block, _last_projections(block, outside))
    if down and _removes_all(block, silent, outside, [call.module for call in down]):
        widths = tuple(_width(call.states) for call in down)
        return FeedForward(tuple(call.module for call in down), widths)
    whole = _fed_without(silent, block, list(_whole_modules(block, mixers)))
    if whole and _removes_all(block, silent, outside, [call.module for call in whole]):
        return FeedForward(whole=tuple(call.module for call in whole))
    return FeedForward()


def _outside(call: Call, mixers: Sequence[Call]) -> Iterator[Call]:
    """Yield all calls in a block that are neither mixers nor inside a mixer."""
    for inner in call.inner:
        if not any(inner is mixer for mixer in mixers):
            yield inner
            yield from _outside(inner, mixers)


def _last_projections(block: Call, outside: Sequence[Call]) -> list[Call]:
    """Return linear layers as wide as the block whose output reaches no other linear layer."""
    linear: list[Call] = []
    for call in outside:  # an adapter's layer counts as a single layer with its parts
        if not any(inner is call for outer in linear for inner in outer.walk()) and is_affine(call):
            linear.append(call)
    last = [call for call in linear if _width(call.output) == _width(block.output)]
    return [call for call in last if not _reaches(block, call, linear)]


def _reaches(block: Call, layer: Call, layers: Sequence[Call]) -> bool:
    """Return whether noise in place of a layer's output changes the input of another layer."""
    listened = [other for other in layers if other.module is not layer.module]
    plain = _inputs(block, listened)
    with outputs_replaced([layer.module], EVERYWHERE):
        moved = _inputs(block, listened)
    return any(
        not same(moved[place], plain[place], plain[place], block)
        for place in plain
        if place in moved
    )


def _inputs(
    block: Call, calls: Sequence[Call], change: Callable[[Tensor], Tensor] = torch.clone
) -> dict[int, Tensor]:
    """Return the inputs by position of each module, by its place, when the block is repeated."""
    inputs: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for place, call in enumerate(calls):

            def listen(module: nn.Module, args: Any, kwargs: Any, place: int = place) -> None:
                states = Call(module, args, kwargs).states
                if states is not None:
                    inputs[place] = states.float()

            listening = call.module.register_forward_pre_hook(listen, with_kwargs=True)
            hooks.callback(listening.remove)
        replay(block, change)
    return inputs


def _whole_modules(call: Call, mixers: Sequence[Call]) -> Iterator[Call]:
    """Yield the outermost modules with matrices, without mixers and as wide as the block."""
    for inner in call.inner:
        if any(inner is mixer for mixer in mixers) or not has_matrices(inner.module):
            continue
        if any(nested is mixer for nested in inner.walk() for mixer in mixers):
            yield from _whole_modules(inner, mixers)
        elif _width(inner.output) == _width(call.output):
            yield inner


def _fed_without(silent: Sequence[nn.Module], block: Call, calls: list[Call]) -> list[Call]:
    """Return the calls with input even if all mixers are silent; the rest only process mixers."""
    with outputs_replaced(silent, torch.zeros_like):
        plain, noisy = _inputs(block, calls), _inputs(block, calls, EVERYWHERE)
    return [
        call
        for place, call in enumerate(calls)
        if place in plain and not same(plain[place], noisy[place], noisy[place], block)
    ]


def _removes_all(
    block: Call, silent: Sequence[nn.Module], outside: Sequence[Call], modules: Sequence[nn.Module]
) -> bool:
    """Return whether zero outputs of these modules leave only the residual path.

    The mixers are silent too, each at its last linear layer (some add the residual stream to
    their output). The block must then return its input. If its norms are on the residual path, the
    output at a position must depend on that position alone, and noise in the inputs of all
    remaining matrices must not change it.
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
        matrices = [call.module for call in outside if has_matrices(call.module, itself=True)]
        with ExitStack() as hooks:
            for module in matrices:
                listening = module.register_forward_pre_hook(_drown, with_kwargs=True)
                hooks.callback(listening.remove)
            drowned = replay(block)
    return drowned is not None and torch.equal(drowned, bare)


def _drown(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return changed(args, kwargs, EVERYWHERE)


def _last_write(mixer: Call, width: int) -> nn.Module:
    """Return the last linear layer of a mixer, or the mixer itself."""
    wide = [call for call in mixer.walk() if _width(call.output) == width and is_affine(call)]
    return wide[-1].module if wide else mixer.module


def _differ_everywhere(first: Tensor, second: Tensor) -> bool:
    far = (first - second).abs().amax(dim=-1)  # (B,T)
    return bool((far > 1e-2 * second.abs().max()).all()) and far.shape[1] == TOKENS


def _width(states: Tensor | None) -> int:
    return 0 if states is None or not by_position(states) else states.shape[-1]
