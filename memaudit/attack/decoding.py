"""Greedy decoding of windows from their first mismatch on, one token at a time for all together.

Knows the target, a soft prompt and what verification left: the tokens said so far and, where it
can be cut, a cache of them. Knows nothing of batches or memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from memaudit.attack.forward import accepted_arguments, build_inputs, last_logits
from memaudit.attack.prompts import SoftPrompt
from memaudit.attack.verification import next_token, require_finite
from memaudit.target.checkpoint import Checkpoint

CACHE_NAMES = ("cache", "past_key_values", "cache_params", "state")
"""What architectures call a cache or state, as an argument of ``forward`` and as a field of its
output. transformers 5.24 renamed the second and third to the first; a model's own code may keep
to an old name in its arguments while the output, which is transformers', has the new one."""
CUTTABLE = (DynamicLayer, DynamicSlidingWindowLayer)
"""Layers of a cache that hold keys and values of every token, and nothing else."""
NO_ARGUMENT = "its forward takes no cache"
NO_OUTPUT = "it returns no cache"


class CannotGoOn(Exception):
    """The target cannot go on from an earlier pass in some way; the message says why."""


class CacheShape(NamedTuple):
    """What a target keeps of every token: keys and values, nothing else."""

    layers: int
    bytes_per_token: int


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, for many windows, in buffers allocated once.

    The stock layer copies everything it holds at every step; this one writes the new states in
    place. ``keys`` and ``values`` are views of the rows and positions in focus.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__()
        self.buffers: tuple[Tensor, Tensor] | None = None
        self._size = (rows, capacity)
        self._rows = slice(0, rows)
        self._length = 0

    def focus(self, rows: slice, length: int) -> None:
        """Go on with these rows, of which the first ``length`` positions are held."""
        self._rows, self._length = rows, length
        if self.buffers is not None:
            self.keys, self.values = (buffer[rows, :, :length] for buffer in self.buffers)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (B,heads,T,d) states to the rows in focus and return all they hold."""
        if self.buffers is None:
            self.lazy_initialization(key_states, value_states)
            self.buffers = (self._room_for(key_states), self._room_for(value_states))
        start, end = self._length, self._length + key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[self._rows, :, start:end] = states
        self.focus(self._rows, end)
        return self.keys, self.values

    def _room_for(self, states: Tensor) -> Tensor:
        rows, capacity = self._size
        return states.new_empty(rows, states.shape[1], capacity, states.shape[3])


class RoomyCache(DynamicCache):  # type: ignore[misc]
    """One :class:`RoomyLayer` per layer of the target, ``rows`` windows of ``capacity`` tokens."""

    def __init__(self, layers: int, rows: int, capacity: int) -> None:
        super().__init__()
        self.rows, self.capacity = rows, capacity
        self.layers = [RoomyLayer(rows, capacity) for _ in range(layers)]
        # The base class would otherwise add stock layers on demand.
        self.layer_class_to_replicate = None

    def focus(self, rows: slice, length: int) -> None:
        """Go on with these rows, of which the first ``length`` positions are held."""
        for layer in self.layers:
            layer.focus(rows, length)

    def reorder(self, order: Tensor) -> None:
        """Let row i be what row order[i] was; ``order`` may be shorter than the cache has rows.

        Each buffer is copied into the one freed before it, unless that is on another device: fresh
        memory costs more than the copy.
        """
        spare: Tensor | None = None
        for layer in self.layers:
            if layer.buffers is None:  # a layer that shares another layer's states
                continue
            moved = []
            for buffer in layer.buffers:
                if spare is None or (spare.shape, spare.device) != (buffer.shape, buffer.device):
                    spare = torch.empty_like(buffer)
                order = order.to(buffer.device)
                torch.index_select(buffer, 0, order, out=spare[: len(order)])
                moved.append(spare)
                spare = buffer
            layer.buffers = (moved[0], moved[1])


def cache_argument(checkpoint: Checkpoint) -> str | None:
    """Name of the argument by which the target's ``forward`` takes a cache; None without one."""
    accepted = accepted_arguments(checkpoint)
    return next((name for name in CACHE_NAMES if name in accepted), None)


def cache_of(output: Any) -> Any:
    """The cache or state that an output of the target holds; None where it holds none."""
    # An old name would be answered with the new field and a warning, so no name is asked for.
    held = dict(output.items())
    return next((held[name] for name in CACHE_NAMES if held.get(name) is not None), None)


def with_cache(checkpoint: Checkpoint, cache: Any) -> dict[str, Any]:
    """Arguments of ``forward`` that hand a cache to the target, which takes one."""
    name = cache_argument(checkpoint)
    if name is None:
        raise CannotGoOn(NO_ARGUMENT)
    return {"use_cache": True, name: cache}


def probe_cache(checkpoint: Checkpoint) -> CacheShape:
    """What the target keeps of a token, where that is keys and values alone.

    State-space and hybrid models keep a running state that cannot be cut back to an earlier
    position; neither can caches of a kind that we do not know. Raises CannotGoOn, which says so.
    """
    if cache_argument(checkpoint) is None:
        raise CannotGoOn(NO_ARGUMENT)
    first = torch.zeros(1, 1, dtype=torch.long, device=checkpoint.device)
    cache = cache_of(checkpoint.model(inputs_embeds=checkpoint.embed(first), use_cache=True))
    if cache is None:
        raise CannotGoOn(NO_OUTPUT)
    # Another class keeps more than its layers show (MiniMax), and may want to be given itself.
    layers = getattr(cache, "layers", [])
    if type(cache) is not DynamicCache or not layers:
        raise CannotGoOn(f"it keeps a {type(cache).__name__}, which cannot be cut back")
    others = {type(layer).__name__ for layer in layers if type(layer) not in CUTTABLE}
    if others:
        raise CannotGoOn(f"its cache holds more than keys and values ({', '.join(sorted(others))})")
    held = [
        states for layer in layers for states in (layer.keys, layer.values) if states is not None
    ]
    return CacheShape(len(layers), sum(states.nbytes for states in held))


def grow_model_cache(checkpoint: Checkpoint, output: Any, place: int) -> dict[str, Any]:
    """Arguments that hand a model's own cache or state back to it for the token at ``place``.

    Some count the places of the tokens they are given anew in every pass (Bamba, MiniMax). Raises
    CannotGoOn where it keeps nothing, or takes nothing back.
    """
    cache = cache_of(output)
    if cache is None:
        raise CannotGoOn(NO_OUTPUT)
    arguments = with_cache(checkpoint, cache)
    if "position_ids" in accepted_arguments(checkpoint):
        at = torch.full((len(output.logits), 1), place, dtype=torch.long, device=checkpoint.device)
        arguments["position_ids"] = at
    return arguments


def decode(
    checkpoint: Checkpoint, prompt: SoftPrompt, cache: RoomyCache, said: Tensor, matched: Tensor
) -> None:
    """Complete ``said`` (B,S) in place; rows sorted by ``matched`` (B,), as in the cache.

    A window joins at its first mismatch: until then the cache holds what the target said.
    """
    suffix = said.shape[1]
    context = cache.capacity - (suffix - 1)  # [BOS], V and P
    finite = torch.ones_like(matched, dtype=torch.bool)
    joined = torch.bincount(matched, minlength=suffix).cumsum(0).tolist()
    for position in range(int(matched[0]) + 1, suffix):
        rows = slice(0, joined[position - 1])  # those with a mismatch before the position
        cache.focus(rows, context + position - 1)
        token = _embed(checkpoint, prompt, said[rows, position - 1 : position])
        logits, _ = last_logits(checkpoint, 1, token, **with_cache(checkpoint, cache))
        said[rows, position], numbers = next_token(logits)
        finite[rows] &= numbers
    require_finite(checkpoint, finite)


def decode_from_prefix(
    checkpoint: Checkpoint,
    prompt: SoftPrompt,
    ids: Tensor,
    said: Tensor,
    matched: Tensor,
    batch_size: int,
) -> None:
    """The same for a target whose state cannot be cut back: fill it anew, then go on.

    ids: (B,P+S), of which the prefix and what the target says alike are read.
    """
    prefix_tokens = ids.shape[1] - said.shape[1]
    finite = torch.ones_like(matched, dtype=torch.bool)
    left = torch.nonzero(matched < said.shape[1]).flatten()
    for start in range(0, len(left), batch_size):
        rows = left[start : start + batch_size]
        kept = int(matched[rows[0]])
        context = ids[rows, : prefix_tokens + kept]
        inputs = build_inputs(checkpoint, prompt, context, prefix_tokens)
        _, output = last_logits(checkpoint, 1, inputs, use_cache=True)
        for position in range(kept + 1, said.shape[1]):
            token = _embed(checkpoint, prompt, said[rows, position - 1 : position])
            place = inputs.shape[1] + position - (kept + 1)
            state = grow_model_cache(checkpoint, output, place)
            logits, output = last_logits(checkpoint, 1, token, **state)
            token, numbers = next_token(logits)
            free = matched[rows] < position
            said[rows, position] = torch.where(free, token, said[rows, position])
            finite[rows] &= numbers
    require_finite(checkpoint, finite)


def decode_anew(
    checkpoint: Checkpoint,
    prompt: SoftPrompt,
    ids: Tensor,
    said: Tensor,
    matched: Tensor,
    batch_size: int,
) -> None:
    """The same for a target that keeps nothing it could go on from: a whole pass for each token.

    ids: (B,P+S), of which the prefix is read.
    """
    suffix = said.shape[1]
    prefix = ids[:, : ids.shape[1] - suffix]
    finite = torch.ones_like(matched, dtype=torch.bool)
    for position in range(int(matched[0]) + 1, suffix):
        left = torch.nonzero(matched < position).flatten()
        for rows in torch.split(left, batch_size):
            known = torch.cat([prefix[rows], said[rows, :position]], dim=1)
            inputs = build_inputs(checkpoint, prompt, known, prefix.shape[1])
            logits, _ = last_logits(checkpoint, 1, inputs, use_cache=False)
            said[rows, position], numbers = next_token(logits)
            finite[rows] &= numbers
    require_finite(checkpoint, finite)


def _embed(checkpoint: Checkpoint, prompt: SoftPrompt, ids: Tensor) -> Tensor:
    return prompt.adapt(checkpoint.embed(ids))
