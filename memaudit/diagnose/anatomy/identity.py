"""Attention by the identity pattern: each position attends to itself alone.

Knows a mixing module's call and its mask. What is left of attention is W_O W_V x (Menta et al.
2025), and of a model with an attention sink in its softmax, the share that the sink leaves.
Whether a module can be brought to it is found by trying. Letters: B, T as in trial.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memaudit.diagnose.anatomy.trial import TOKENS, Call, noise_at, replay, same
from memaudit.errors import RunError


@dataclass(frozen=True)
class Pattern:
    """How a module is told to attend to itself alone."""

    argument: str
    """Of its ``forward``: takes a mask whose last two sizes are (T,T)."""
    place: int | None
    """Its place among the arguments; None where it can only be named."""
    visible: float | bool
    """What the mask has where a position is seen, where the module is given none."""
    hidden: float | bool

    def apply(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A forward pre-hook: the call with that mask."""
        given = kwargs.get(self.argument)
        by_place = self.place is not None and self.place < len(args)
        if by_place:
            given = args[self.place]  # type: ignore[index]
        mask = _diagonal(given) if isinstance(given, Tensor) else self._made(args, kwargs)
        if by_place:
            return (*args[: self.place], mask, *args[self.place + 1 :]), kwargs  # type: ignore[operator]
        return args, kwargs | {self.argument: mask}

    def _made(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """(1,1,T,T) for the hidden states (B,T,·) that are given."""
        states: Tensor = next(
            one
            for one in (*args, *kwargs.values())
            if isinstance(one, Tensor) and one.dim() == 3 and one.is_floating_point()
        )
        tokens, dtype = states.shape[1], states.dtype
        if isinstance(self.visible, bool):
            dtype = torch.bool
        hidden = torch.finfo(dtype).min if self.hidden == -torch.inf else self.hidden
        mask = torch.full((1, 1, tokens, tokens), hidden, dtype=dtype, device=states.device)
        mask.diagonal(dim1=-2, dim2=-1).fill_(self.visible)
        return mask


_FORMS: tuple[tuple[float | bool, float | bool], ...] = ((0.0, -torch.inf), (True, False))
"""Visible and hidden in masks that are added to scores, and in those that are looked up."""


def find_pattern(call: Call) -> Pattern | None:
    """How a module that was called is brought to the identity pattern; None where it cannot be.

    Asked for of its behaviour: what it gives at a position is then the same whatever stands at
    any other, and at the first position, which sees only itself anyway, the same as ever.
    """
    return next((one for one in _candidates(call) if _keeps_apart(call, one)), None)


def _candidates(call: Call) -> Iterator[Pattern]:
    names = list(inspect.signature(type(call.module).forward).parameters)[1:]
    given = dict(zip(names, call.args, strict=False)) | call.kwargs
    places = {name: names.index(name) if name in names else None for name in (*names, *given)}
    for name, value in given.items():
        if isinstance(value, Tensor) and value.shape[-2:] == (TOKENS, TOKENS):
            first = value.reshape(-1, TOKENS, TOKENS)[0, 0]
            yield Pattern(name, places[name], first[0].item(), first[-1].item())
    for name in places:
        if "mask" in name and given.get(name) is None:
            for visible, hidden in _FORMS:
                yield Pattern(name, places[name], visible, hidden)


def _diagonal(mask: Tensor) -> Tensor:
    """A causal mask (...,T,T) with only the diagonal left visible, in its own two values.

    Which is which tells the first row: it sees the first position, and not the last.
    """
    size = mask.shape[-1]
    if mask.shape[-2] != size:
        raise RunError("a mask for other positions than those of the pass")
    eye = torch.eye(size, dtype=torch.bool, device=mask.device)
    return torch.where(eye, mask[..., :1, :1], mask[..., :1, -1:])


def _keeps_apart(call: Call, pattern: Pattern) -> bool:
    plain = replay(call)
    hook = call.module.register_forward_pre_hook(pattern.apply, with_kwargs=True)
    try:
        alone = replay(call)
        if plain is None or alone is None or not _same_at(0, alone, plain, call):
            return False
        for place in range(TOKENS):
            others = [one for one in range(TOKENS) if one != place]
            other = replay(call, noise_at(others))
            if other is None or not _same_at(place, other, alone, call):
                return False
    finally:
        hook.remove()
    return True


def _same_at(place: int, one: Tensor, two: Tensor, call: Call) -> bool:
    return same(one[:, place], two[:, place], two[:, place], call)
