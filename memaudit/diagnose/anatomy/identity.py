"""Attention with the identity pattern: each position attends to itself alone.

Knows the call of a mixing module and its mask. The output of attention is then W_O W_V x (Menta et
al. 2025), times the share that an attention sink in the softmax leaves. A trial decides whether a
module accepts the pattern. Letters: B, T as in trial.py.
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
    """Mask argument that makes each position of a module attend to itself alone."""

    argument: str
    """Argument of its ``forward`` that takes a mask (...,T,T)."""
    place: int | None
    """Place among the positional arguments; None for keyword only."""
    visible: float | bool
    """Mask value of a visible position, for a module called without a mask."""
    hidden: float | bool
    """Mask value of a hidden position, for a module called without a mask."""

    def apply(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with that mask; a forward pre-hook."""
        given = kwargs.get(self.argument)
        by_place = self.place is not None and self.place < len(args)
        if by_place:
            given = args[self.place]  # type: ignore[index]
        mask = _diagonal(given) if isinstance(given, Tensor) else self._build(args, kwargs)
        if by_place:
            return (*args[: self.place], mask, *args[self.place + 1 :]), kwargs  # type: ignore[operator]
        return args, kwargs | {self.argument: mask}

    def _build(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Build a mask (1,1,T,T) for the hidden states (B,T,·) among the arguments."""
        states: Tensor = next(
            value
            for value in (*args, *kwargs.values())
            if isinstance(value, Tensor) and value.dim() == 3 and value.is_floating_point()
        )
        tokens, dtype = states.shape[1], states.dtype
        if isinstance(self.visible, bool):
            dtype = torch.bool
        hidden = torch.finfo(dtype).min if self.hidden == -torch.inf else self.hidden
        mask = torch.full((1, 1, tokens, tokens), hidden, dtype=dtype, device=states.device)
        mask.diagonal(dim1=-2, dim2=-1).fill_(self.visible)
        return mask


_FORMS: tuple[tuple[float | bool, float | bool], ...] = ((0.0, -torch.inf), (True, False))
"""Values of visible and hidden in additive masks, and in boolean masks."""


def find_pattern(call: Call) -> Pattern | None:
    """Find the mask that sets a called module to the identity pattern; None if there is none.

    Tested on the outputs: with the mask, the output at a position must not depend on any other
    position, and must be unchanged at the first position, which sees only itself anyway.
    """
    return next((pattern for pattern in _candidates(call) if _is_identity(call, pattern)), None)


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
    """Return a causal mask (...,T,T) with only the diagonal visible, in its own two values.

    The first row shows the two values: it sees the first position, and not the last.
    """
    size = mask.shape[-1]
    if mask.shape[-2] != size:
        raise RunError("the attention mask does not match the positions of the pass")
    eye = torch.eye(size, dtype=torch.bool, device=mask.device)
    return torch.where(eye, mask[..., :1, :1], mask[..., :1, -1:])


def _is_identity(call: Call, pattern: Pattern) -> bool:
    plain = replay(call)
    hook = call.module.register_forward_pre_hook(pattern.apply, with_kwargs=True)
    try:
        alone = replay(call)
        if plain is None or alone is None or not _same_at(0, alone, plain, call):
            return False
        for place in range(TOKENS):
            elsewhere = [index for index in range(TOKENS) if index != place]
            noisy = replay(call, noise_at(elsewhere))
            if noisy is None or not _same_at(place, noisy, alone, call):
                return False
    finally:
        hook.remove()
    return True


def _same_at(place: int, first: Tensor, second: Tensor, call: Call) -> bool:
    return same(first[:, place], second[:, place], second[:, place], call)
