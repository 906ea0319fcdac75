"""Effect of each feed-forward unit on a suffix, by gradient.

Knows units, their values and derivatives, not the use of the ranking. U: units of a model, M: units
of one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from memaudit.attack.forward import build_inputs, last_logits
from memaudit.attack.journal import Advance
from memaudit.attack.prompts import NoPrompt
from memaudit.diagnose.anatomy.blocks import down_inputs
from memaudit.diagnose.neurons.units import Ids, Levels, Units
from memaudit.diagnose.passes import Found, Passes, in_batches
from memaudit.errors import TargetError
from memaudit.system.memory import FAILED_ALLOCATION, is_out_of_memory
from memaudit.target.checkpoint import Checkpoint
from memaudit.target.softprompt_check import architecture_of

_NO_ROOM = "out of memory with the gradient of a single window; use another --device"


@dataclass(frozen=True, eq=False)
class Attribution:
    """Effects of each unit in N windows."""

    weakest: Levels
    """(N,U) first-order loss of the log-odds of the least certain suffix tokens when the unit is
    silenced: its use for making one token wrong."""
    every: Levels
    """(N,U) first-order loss of the sum of all suffix tokens' log-odds: its use for making many
    tokens wrong."""
    size: Levels
    """(N,U) mean distance of the unit from its level at the suffix positions."""


def attribute(
    passes: Passes, units: Units, level: Levels, ids: Ids, advance: Advance = lambda done: None
) -> Attribution:
    """Attribute the suffixes of ids (N,P+S), N at least 1, to units.

    An effect is the derivative of a gain by the unit times its distance from its level, summed over
    all positions: the gain's first-order loss when the unit is silenced (gradient times difference
    from a reference, Shrikumar et al. 2017, section 2). The gains use the log-odds of the S tokens,
    log p/(1-p), whose gradient, unlike that of log p, does not vanish for p close to 1: their sum,
    and their smooth minimum, -log sum exp(-log-odds). The minimum's gradient is taken at the intact
    model, because few units are silenced for one token. The sum's gradient is taken half way to a
    model with all units silenced, the midpoint of the path of integrated gradients (Sundararajan
    et al. 2017; Dai et al. 2022 apply it to units). On a model of 7M parameters the midpoint made
    sets that erase half a suffix a fifth smaller, and sets for one token larger.

    Raises:
        TargetError: no gradient flows to the units.
        RunError: a single window does not fit in memory.
    """

    def work(rows: Ids) -> Found:
        try:
            return _attribute(passes, units, level, rows)
        except FAILED_ALLOCATION as error:
            if is_out_of_memory(error):
                raise
            raise _no_gradient(passes.checkpoint) from error

    return Attribution(**in_batches(ids, passes.batch_size, work, advance, no_room=_NO_ROOM))


def _attribute(passes: Passes, units: Units, level: Levels, rows: Ids) -> Found:
    """Return both effects and the size of the units in one batch (B,P+S), each (B,U)."""
    suffix = rows.shape[1] - passes.prefix_tokens
    distances, weakest = _slopes(
        passes, units, level, rows, 1.0, lambda odds: -(-odds).logsumexp(dim=1).sum()
    )
    _, every = _slopes(passes, units, level, rows, 0.5, lambda odds: odds.sum())
    effects = [
        (
            _summed(distance, first),
            _summed(distance, second),
            distance[:, -suffix:].abs().mean(dim=1).cpu(),
        )
        for distance, first, second in zip(distances, weakest, every, strict=True)
    ]
    names = ("weakest", "every", "size")
    by_figure = zip(names, zip(*effects, strict=True), strict=True)
    return {name: torch.cat(blocks, dim=1).numpy() for name, blocks in by_figure}


def _summed(off: Tensor, slope: Tensor) -> Tensor:
    """Return distance times slope (B,T,M), summed over positions: (B,M)."""
    return (off * slope.float()).sum(dim=1).cpu()


def _slopes(
    passes: Passes,
    units: Units,
    level: Levels,
    rows: Ids,
    share: float,
    gain: Callable[[Tensor], Tensor],
) -> tuple[list[Tensor], Sequence[Tensor]]:
    """Return units' distances from their level, and a gain's derivatives by the units.

    Both are (B,T,M) for every down projection in one batch (B,P+S). The gain takes log-odds (B,S);
    its derivatives are taken with all units at that share of their distance.
    """
    checkpoint, suffix = passes.checkpoint, rows.shape[1] - passes.prefix_tokens
    ids = torch.as_tensor(rows, dtype=torch.long, device=checkpoint.device)
    with torch.enable_grad(), _leaves(units, level, share) as by_block:
        inputs = build_inputs(checkpoint, NoPrompt(), ids[:, :-1], passes.prefix_tokens)
        inputs = inputs.detach().requires_grad_()
        own = inputs.clone()  # CTRL scales its inputs in place, which a leaf cannot be
        logits, _ = last_logits(checkpoint, suffix, own, use_cache=False, **passes.options)
        leaves = [leaf for places in by_block.values() for leaf in places.values()]
        given = [leaf.given for leaf in leaves]
        if not all(leaf.requires_grad for leaf in given):
            raise _no_gradient(checkpoint)
        odds = _log_odds(logits.float(), ids[:, -suffix:])
        slopes = torch.autograd.grad(gain(odds), given)
    return [leaf.off for leaf in leaves], slopes


def _log_odds(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return log p/(1-p) (B,S) of the tokens (B,S) under logits (B,S,X)."""
    target = logits.gather(-1, tokens[..., None])
    rest = logits.scatter(-1, tokens[..., None], float("-inf")).logsumexp(dim=-1)
    return target[..., 0] - rest


class _Leaf(NamedTuple):
    """Input of a down projection, (B,T,M)."""

    given: Tensor
    """Input as scaled, part of the pass's graph."""
    off: Tensor
    """Distance from the level before scaling, float32."""


@contextmanager
def _leaves(
    units: Units, level: Levels, share: float
) -> Iterator[Mapping[int, Mapping[int, _Leaf]]]:
    """Scale each down projection's input towards its level; yield it by block and place."""
    empty = _Leaf(torch.empty(0), torch.empty(0))
    leaves: dict[int, dict[int, _Leaf]] = {
        number: dict.fromkeys(range(len(block.down)), empty)
        for number, block in enumerate(units.blocks)
    }
    with ExitStack() as hooks:
        for number, block in enumerate(units.blocks):
            hooks.enter_context(down_inputs(block, _nearer(units, number, level, share, leaves)))
        yield leaves


def _nearer(
    units: Units, number: int, level: Levels, share: float, leaves: dict[int, dict[int, _Leaf]]
) -> Callable[[int, Tensor], Tensor]:
    cut = int(units.starts[number]) + np.cumsum([0, *units.blocks[number].widths])

    def scale(place: int, given: Tensor) -> Tensor:
        part = torch.as_tensor(level[cut[place] : cut[place + 1]])
        own = part.to(given.device, given.dtype)
        # The stored tensor must be the returned one, or it would be in no graph.
        nearer = given if share == 1 else own + share * (given - own)
        off = given.detach().float() - part.to(given.device)
        leaves[number][place] = _Leaf(nearer, off)
        return nearer

    return scale


def _no_gradient(checkpoint: Checkpoint) -> TargetError:
    return TargetError(
        f"{checkpoint.name}: {architecture_of(checkpoint)}: no gradient flows to its feed-forward "
        "units, so they cannot be ranked; diagnose the model unquantised"
    )
