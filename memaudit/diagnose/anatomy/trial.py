"""Trial pass of a model on a few tokens: the calls of its modules, and tests of their effects.

Knows modules, their calls and how to repeat a call with other inputs. Knows nothing of blocks.
Letters: B rows and T tokens of the trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from memaudit.target.checkpoint import Checkpoint
from memaudit.target.failures import FAILURES
from memaudit.target.placement import base_of
from memaudit.target.softprompt_check import random_ids

ROWS, TOKENS = 3, 7
"""B and T of the trial input: different, odd, and T larger than short sliding windows."""
NEAR = {torch.float32: 3e-5, torch.float64: 3e-5}
NEAR_IN_HALF = 2e-2
"""Tolerance between outputs that should agree, as a share of their largest number: by precision of
the target, and for all coarser precisions."""


@dataclass(eq=False)
class Call:
    """Call of a module in the trial pass, with the calls inside it."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    near: float = 0.0
    """Tolerance between outputs that should agree, as a share of their largest number."""
    result: Any = None
    inner: list[Call] = field(default_factory=list)

    def walk(self) -> Iterator[Call]:
        """Yield all calls inside this call in order, outer calls first."""
        for call in self.inner:
            yield call
            yield from call.walk()

    @property
    def states(self) -> Tensor | None:
        """First argument with values for every position: (B,T,·) or (B·T,·)."""
        return next(
            (value for value in (*self.args, *self.kwargs.values()) if by_position(value)), None
        )

    @property
    def output(self) -> Tensor | None:
        """First result with values for every position, as (B,T,·)."""
        return _output(self.result)


@torch.no_grad()
def trial_pass(checkpoint: Checkpoint, **options: Any) -> Call:
    """Record every call in a pass over B rows of T random tokens; options go to the forward."""
    model = base_of(checkpoint.model)
    near = NEAR.get(checkpoint.precision, NEAR_IN_HALF)
    root = Call(model, (), {}, near)
    stack = [root]

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Copies, since some models add residuals in place.
        named = {key: _copy(value) for key, value in kwargs.items()}
        call = Call(module, tuple(map(_copy, args)), named, near)
        stack[-1].inner.append(call)
        stack.append(call)

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        stack.pop().result = _copy(result)

    embedded = checkpoint.embed(random_ids(checkpoint, ROWS, TOKENS))
    with ExitStack() as hooks:
        for module in model.modules():
            if module is not model:
                listening = module.register_forward_pre_hook(enter, with_kwargs=True)
                hooks.callback(listening.remove)
                hooks.callback(module.register_forward_hook(leave).remove)
        checkpoint.model(inputs_embeds=embedded.clone(), use_cache=False, **options)
    return root


@torch.no_grad()
def replay(call: Call, change: Callable[[Tensor], Tensor] = torch.clone) -> Tensor | None:
    """Repeat a call with all inputs by position changed; return its output (B,T,·) float32.

    None if the call fails or has no output by position.
    """
    args, kwargs = changed(call.args, call.kwargs, change)
    try:
        return _output(call.module(*args, **kwargs))
    except FAILURES:
        return None


def changed(
    args: tuple[Any, ...], kwargs: dict[str, Any], change: Callable[[Tensor], Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with all inputs by position changed."""
    return (
        tuple(change(value) if by_position(value) else value for value in args),
        {key: change(value) if by_position(value) else value for key, value in kwargs.items()},
    )


def noise_at(places: Sequence[int], seed: int = 0) -> Callable[[Tensor], Tensor]:
    """Return a change that replaces (B,T,·) at these positions by noise of its size, by seed."""

    def change(states: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        noise = torch.randn(states.shape, generator=rng).to(states.device, states.dtype)
        other = states.clone()
        shaped = other.view(ROWS, TOKENS, -1)
        spread = states.float().std().to(states.dtype)
        spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        shaped[:, places] = noise.view(ROWS, TOKENS, -1)[:, places] * spread
        return other

    return change


EVERYWHERE = noise_at(range(TOKENS))
ELSEWISE = noise_at(range(TOKENS), seed=1)


def mixes(call: Call) -> bool:
    """Return whether the output at later positions depends on the first position."""
    if call.states is None or call.output is None:
        return False
    plain, noisy = replay(call), replay(call, noise_at([0]))
    return (
        plain is not None
        and noisy is not None
        and not same(plain[:, 1:], noisy[:, 1:], plain[:, 1:], call)
    )


def is_affine(call: Call) -> bool:
    """Return whether the module has weights and is f(x) = Wx + b at each position.

    So must be all modules that it calls: a network whose last matrix is zero does not count.
    """
    return has_matrices(call.module) and all(map(_is_additive, (call, *call.walk())))


def _is_additive(call: Call) -> bool:
    """Return whether f(x) + f(y) = f(x + y) + f(0)."""
    if call.states is None or not isinstance(call.result, Tensor) or call.output is None:
        return False
    if len(call.args) + len(call.kwargs) != 1:
        return False
    changes = (ELSEWISE, EVERYWHERE, lambda x: ELSEWISE(x) + EVERYWHERE(x), torch.zeros_like)
    x, y, both, zero = (replay(call, change) for change in changes)
    if x is None or y is None or both is None or zero is None:
        return False
    return same(x + y, both + zero, both.abs() + x.abs() + y.abs(), call)


def same(first: Tensor, second: Tensor, of: Tensor, call: Call) -> bool:
    """Return whether two outputs differ by rounding only, relative to the largest of ``of``."""
    return bool(((first - second).abs() <= call.near * float(of.abs().max())).all())


def has_matrices(module: nn.Module, *, itself: bool = False) -> bool:
    """Return whether a module has weights of two dimensions or more; quantised as buffers."""
    weights = (*module.parameters(recurse=not itself), *module.buffers(recurse=not itself))
    return any(weight.dim() >= 2 for weight in weights)


def by_position(value: Any) -> bool:
    """Return whether a value is floating-point and (B,T,·) or (B·T,·) of the trial."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return value.shape[:-1] in ((ROWS, TOKENS), (ROWS * TOKENS,))


@contextmanager
def outputs_replaced(
    modules: Sequence[nn.Module], change: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Change the first tensor that each module returns."""

    def hook(module: nn.Module, args: Any, result: Any) -> Any:
        if isinstance(result, Tensor):
            return change(result)
        done = False
        parts = []
        for value in result:
            is_first = isinstance(value, Tensor) and value.is_floating_point() and not done
            parts.append(change(value) if is_first else value)
            done = done or is_first
        return tuple(parts)

    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_hook(hook).remove)
        yield


def _output(result: Any) -> Tensor | None:
    parts = (result,) if isinstance(result, Tensor) else result
    if not isinstance(parts, (tuple, list)):
        parts = tuple(parts.values()) if hasattr(parts, "values") else ()
    first = next((value for value in parts if by_position(value)), None)
    return None if first is None else first.float().view(ROWS, TOKENS, -1)


def _copy(value: Any) -> Any:
    if by_position(value):
        return value.clone()
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(map(_copy, value))
    return value
