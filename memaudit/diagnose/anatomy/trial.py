"""A model tried on a handful of tokens: which modules it calls with what, and what each one does.

Knows modules, their calls and how to repeat one with other inputs. Knows nothing of blocks. Letters
here: B rows and T tokens of the trial, as below.
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
"""B and T of the trial input: unlike, odd, and more tokens than short sliding windows see."""
NEAR = {torch.float32: 3e-5, torch.float64: 3e-5}
NEAR_IN_HALF = 2e-2
"""How far two outputs that should agree differ at most, as a share of the largest number in them:
by the target's precision, and for all coarser ones."""


@dataclass(eq=False)
class Call:
    """One call of a module in the trial pass, and the calls that it made itself."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    near: float = 0.0
    """How far two outputs that should agree differ at most, as a share of the largest number."""
    result: Any = None
    inner: list[Call] = field(default_factory=list)

    def walk(self) -> Iterator[Call]:
        """All calls inside this one, outer ones first, in their order."""
        for call in self.inner:
            yield call
            yield from call.walk()

    @property
    def states(self) -> Tensor | None:
        """The first tensor given that holds something of every position: (B,T,·) or (B·T,·)."""
        return next((one for one in (*self.args, *self.kwargs.values()) if by_position(one)), None)

    @property
    def output(self) -> Tensor | None:
        """Likewise of what came back: (B,T,·)."""
        return _output(self.result)


@torch.no_grad()
def trial_pass(checkpoint: Checkpoint, **options: Any) -> Call:
    """One pass over B rows of T random tokens, every call in it written down; options for the
    model's forward.
    """
    model = base_of(checkpoint.model)
    near = NEAR.get(checkpoint.precision, NEAR_IN_HALF)
    root = Call(model, (), {}, near)
    stack = [root]

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Residuals are added in place here and there, so what is kept is a copy.
        named = {key: _kept(one) for key, one in kwargs.items()}
        call = Call(module, tuple(map(_kept, args)), named, near)
        stack[-1].inner.append(call)
        stack.append(call)

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        stack.pop().result = _kept(result)

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
    """What the module gives, (B,T,·) float32, when all it is given by position is changed.

    None where it fails, or gives nothing by position.
    """
    args, kwargs = changed(call.args, call.kwargs, change)
    try:
        return _output(call.module(*args, **kwargs))
    except FAILURES:
        return None


def changed(
    args: tuple[Any, ...], kwargs: dict[str, Any], change: Callable[[Tensor], Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a call in the trial with all that is given by position changed."""
    return (
        tuple(change(one) if by_position(one) else one for one in args),
        {key: change(one) if by_position(one) else one for key, one in kwargs.items()},
    )


def noise_at(places: Sequence[int], seed: int = 0) -> Callable[[Tensor], Tensor]:
    """A change that leaves nothing of (B,T,·) at these positions but noise as large as it was; the
    same for the same seed.
    """

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
    """Whether what the module gives at later positions depends on the first one."""
    if call.states is None or call.output is None:
        return False
    one, two = replay(call), replay(call, noise_at([0]))
    return (
        one is not None and two is not None and not same(one[:, 1:], two[:, 1:], one[:, 1:], call)
    )


def is_affine(call: Call) -> bool:
    """Whether the module, with weights of its own, is f(x) = Wx + b at each position.

    So must be all that it calls in turn: a network whose last matrix is zero is none.
    """
    return has_matrices(call.module) and all(map(_is_additive, (call, *call.walk())))


def _is_additive(call: Call) -> bool:
    """Whether f(x) + f(y) = f(x + y) + f(0)."""
    if call.states is None or not isinstance(call.result, Tensor) or call.output is None:
        return False
    if len(call.args) + len(call.kwargs) != 1:
        return False
    changes = (ELSEWISE, EVERYWHERE, lambda x: ELSEWISE(x) + EVERYWHERE(x), torch.zeros_like)
    x, y, both, zero = (replay(call, change) for change in changes)
    if x is None or y is None or both is None or zero is None:
        return False
    return same(x + y, both + zero, both.abs() + x.abs() + y.abs(), call)


def same(one: Tensor, two: Tensor, of: Tensor, call: Call) -> bool:
    """Whether two outputs differ by rounding only, measured by the largest number of a third."""
    return bool(((one - two).abs() <= call.near * float(of.abs().max())).all())


def has_matrices(module: nn.Module, *, itself: bool = False) -> bool:
    """Whether a module holds weights that are no mere vectors; quantised ones may be buffers."""
    held = (*module.parameters(recurse=not itself), *module.buffers(recurse=not itself))
    return any(one.dim() >= 2 for one in held)


def by_position(one: Any) -> bool:
    """Whether it is floating-point, (B,T,·) or (B·T,·) of the trial."""
    if not isinstance(one, Tensor) or not one.is_floating_point():
        return False
    return one.shape[:-1] in ((ROWS, TOKENS), (ROWS * TOKENS,))


@contextmanager
def outputs_replaced(
    modules: Sequence[nn.Module], change: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """The first tensor that each module gives, changed."""

    def hook(module: nn.Module, args: Any, result: Any) -> Any:
        if isinstance(result, Tensor):
            return change(result)
        done = False
        parts = []
        for one in result:
            first = isinstance(one, Tensor) and one.is_floating_point() and not done
            parts.append(change(one) if first else one)
            done = done or first
        return tuple(parts)

    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_hook(hook).remove)
        yield


def _output(result: Any) -> Tensor | None:
    parts = (result,) if isinstance(result, Tensor) else result
    if not isinstance(parts, (tuple, list)):
        parts = tuple(parts.values()) if hasattr(parts, "values") else ()
    first = next((one for one in parts if by_position(one)), None)
    return None if first is None else first.float().view(ROWS, TOKENS, -1)


def _kept(one: Any) -> Any:
    if by_position(one):
        return one.clone()
    if isinstance(one, tuple) and type(one) is tuple:
        return tuple(map(_kept, one))
    return one
