"""Greedy decoding of windows from their first mismatch, one token at a time for all windows.

Knows the target, a soft prompt and the result of verification. Knows the cache classes of
transformers, and the names by which a target takes and returns a cache. Knows nothing of memory.
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
"""Names of a cache or state, as an argument of ``forward`` and as a field of its output.
transformers 5.24 renamed the second and third to the first. A model's own code may use an old name
for the argument while the output of transformers has the new one."""
CUTTABLE = (DynamicLayer, DynamicSlidingWindowLayer)
"""Cache layers that hold the keys and values of every token, and nothing else."""
NO_ARGUMENT = "its forward takes no cache"
NO_OUTPUT = "it returns no cache"


class CannotContinue(Exception):
    """The target cannot continue from an earlier pass in one way; the message says why."""


class CacheShape(NamedTuple):
    """Size of a cache that holds only keys and values."""

    layers: int
    bytes_per_token: int


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, for many windows, in buffers allocated once.

    The stock layer copies its content at every step; this one writes new states in place.
    ``keys`` and ``values`` are views of the rows and positions in focus.
    """

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__()
        self.buffers: tuple[Tensor, Tensor] | None = None
        self._size = (rows, capacity)
        self._rows = slice(0, rows)
        self._length = 0

    def focus(self, rows: slice, length: int) -> None:
        """Continue with these rows, which hold ``length`` positions."""
        self._rows, self._length = rows, length
        if self.buffers is not None:
            self.keys, self.values = (buffer[rows, :, :length] for buffer in self.buffers)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (B,heads,T,d) states to the rows in focus; return all their states."""
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
        return states.new_zeros(rows, states.shape[1], capacity, states.shape[3])


class RoomyCache(DynamicCache):  # type: ignore[misc]
    """One :class:`RoomyLayer` per layer of the target, ``rows`` windows of ``capacity`` tokens."""

    def __init__(self, layers: int, rows: int, capacity: int) -> None:
        super().__init__()
        self.rows, self.capacity = rows, capacity
        self.layers = [RoomyLayer(rows, capacity) for _ in range(layers)]
        # Otherwise the base class adds stock layers on demand.
        self.layer_class_to_replicate = None

    def focus(self, rows: slice, length: int) -> None:
        """Continue with these rows, which hold ``length`` positions."""
        for layer in self.layers:
            layer.focus(rows, length)

    def reorder(self, order: Tensor, shift: Tensor | None = None) -> None:
        """Move row order[i] to row i; ``order`` may be shorter than the cache.

        shift: (rows,) positions by which each moved row goes to the right, so that texts of
        different lengths end at the same position. Each buffer is copied into the one freed before
        it, unless that is on another device: new memory costs more than the copy.
        """
        spare: Tensor | None = None
        distances = set() if shift is None else set(shift.tolist()) - {0}
        for layer in self.layers:
            if layer.buffers is None:  # a layer that shares another layer's states
                continue
            moved = []
            for buffer in layer.buffers:
                if spare is None or (spare.shape, spare.device) != (buffer.shape, buffer.device):
                    spare = torch.empty_like(buffer)
                order = order.to(buffer.device)
                torch.index_select(buffer, 0, order, out=spare[: len(order)])
                for distance in distances:
                    _shift_rows(spare, shift == distance, distance)
                moved.append(spare)
                spare = buffer
            layer.buffers = (moved[0], moved[1])


def _shift_rows(states: Tensor, rows: Tensor, distance: int) -> None:
    """Move the positions of some rows (n,) bool of states (B,heads,T,d) to the right, in place."""
    chosen = torch.nonzero(rows).flatten().to(states.device)
    states[chosen, :, distance:] = states[chosen, :, :-distance]
    states[chosen, :, :distance] = 0  # masked, but a NaN would spoil the sum all the same


def cache_argument(checkpoint: Checkpoint) -> str | None:
    """Name of the cache argument of the target's ``forward``; None if it takes no cache."""
    accepted = accepted_arguments(checkpoint)
    return next((name for name in CACHE_NAMES if name in accepted), None)


def cache_of(output: Any) -> Any:
    """Return the cache or state in an output of the target, or None."""
    # Attribute access by an old name would give the new field and a warning.
    fields = dict(output.items())
    return next((fields[name] for name in CACHE_NAMES if fields.get(name) is not None), None)


def with_cache(checkpoint: Checkpoint, cache: Any) -> dict[str, Any]:
    """Return the arguments of ``forward`` that pass a cache to the target."""
    name = cache_argument(checkpoint)
    if name is None:
        raise CannotContinue(NO_ARGUMENT)
    return {"use_cache": True, name: cache}


def probe_cache(checkpoint: Checkpoint) -> CacheShape:
    """Return the cache shape of a target that keeps only keys and values of a token.

    Raises CannotContinue for a cache that cannot be cut back to an earlier position: the running
    state of state-space and hybrid models, and caches of an unknown class.
    """
    if cache_argument(checkpoint) is None:
        raise CannotContinue(NO_ARGUMENT)
    first = torch.zeros(1, 1, dtype=torch.long, device=checkpoint.device)
    cache = cache_of(checkpoint.model(inputs_embeds=checkpoint.embed(first), use_cache=True))
    if cache is None:
        raise CannotContinue(NO_OUTPUT)
    # Another class keeps more than its layers show (MiniMax), and may require its own type.
    layers = getattr(cache, "layers", [])
    if type(cache) is not DynamicCache or not layers:
        raise CannotContinue(f"it keeps a {type(cache).__name__}, which cannot be cut back")
    uncuttable = {type(layer).__name__ for layer in layers if type(layer) not in CUTTABLE}
    if uncuttable:
        names = ", ".join(sorted(uncuttable))
        raise CannotContinue(f"its cache holds more than keys and values ({names})")
    tensors = [
        states for layer in layers for states in (layer.keys, layer.values) if states is not None
    ]
    return CacheShape(len(layers), sum(states.nbytes for states in tensors))


def grow_model_cache(checkpoint: Checkpoint, output: Any, place: int) -> dict[str, Any]:
    """Return arguments that pass a model's own cache or state back for the token at ``place``.

    The position is given because some models count from 0 in every pass (Bamba, MiniMax). Raises
    CannotContinue if the model returns no cache or takes none.
    """
    cache = cache_of(output)
    if cache is None:
        raise CannotContinue(NO_OUTPUT)
    arguments = with_cache(checkpoint, cache)
    if "position_ids" in accepted_arguments(checkpoint):
        size, device = (len(output.logits), 1), checkpoint.device
        arguments["position_ids"] = torch.full(size, place, dtype=torch.long, device=device)
    return arguments


class Alignment(NamedTuple):
    """Texts of different lengths in one cache, moved so that all end at the same position."""

    length: int
    """Positions of the longest text."""
    shift: Tensor
    """(B,) positions before each text."""

    def step_arguments(self, rows: slice, place: int) -> dict[str, Tensor]:
        """Return the arguments of ``forward`` that hide what is before each text.

        place: position of the new token in the cache.
        """
        shift = self.shift[rows, None]
        positions = torch.arange(place + 1, device=shift.device)
        return {"attention_mask": (positions >= shift).long(), "position_ids": place - shift}


def decode(
    checkpoint: Checkpoint,
    prompt: SoftPrompt,
    cache: RoomyCache,
    continuation: Tensor,
    matched: Tensor,
    contexts: Alignment,
) -> None:
    """Complete ``continuation`` (B,S) in place; rows sorted by ``matched`` (B,), as in the cache.

    contexts: BOS, soft prompt and prefix of each row, in the cache. A window joins at its first
    mismatch: up to there the cache holds the continuation.
    """
    suffix = continuation.shape[1]
    is_ragged = bool(contexts.shift.any())
    finite = torch.ones_like(matched, dtype=torch.bool)
    joined = torch.bincount(matched, minlength=suffix).cumsum(0).tolist()
    for position in range(int(matched[0]) + 1, suffix):
        rows = slice(0, joined[position - 1])  # those with a mismatch before the position
        place = contexts.length + position - 1
        cache.focus(rows, place)
        token = _embed(checkpoint, prompt, continuation[rows, position - 1 : position])
        state = with_cache(checkpoint, cache)
        if is_ragged:
            state |= contexts.step_arguments(rows, place)
        logits, _ = last_logits(checkpoint, 1, token, **state)
        continuation[rows, position], is_finite = next_token(logits)
        finite[rows] &= is_finite
    require_finite(checkpoint, finite)


def decode_from_prefix(
    checkpoint: Checkpoint,
    prompt: SoftPrompt,
    ids: Tensor,
    continuation: Tensor,
    matched: Tensor,
    batch_size: int,
) -> None:
    """Decode with a target whose state cannot be cut back: rebuild it from the prefix first.

    ids: (B,P+S); only the prefix and the matching suffix tokens are read.
    """
    suffix = continuation.shape[1]
    prefix_tokens = ids.shape[1] - suffix
    finite = torch.ones_like(matched, dtype=torch.bool)
    inexact = torch.nonzero(matched < suffix).flatten()
    for start in range(0, len(inexact), batch_size):
        rows = inexact[start : start + batch_size]
        shared = int(matched[rows[0]])
        context = ids[rows, : prefix_tokens + shared]
        inputs = build_inputs(checkpoint, prompt, context, prefix_tokens)
        _, output = last_logits(checkpoint, 1, inputs, use_cache=True)
        for position in range(shared + 1, suffix):
            token = _embed(checkpoint, prompt, continuation[rows, position - 1 : position])
            place = inputs.shape[1] + position - (shared + 1)
            state = grow_model_cache(checkpoint, output, place)
            logits, output = last_logits(checkpoint, 1, token, **state)
            token, is_finite = next_token(logits)
            free = matched[rows] < position
            continuation[rows, position] = torch.where(free, token, continuation[rows, position])
            finite[rows] &= is_finite
    require_finite(checkpoint, finite)


def decode_without_state(
    checkpoint: Checkpoint,
    prompt: SoftPrompt,
    ids: Tensor,
    continuation: Tensor,
    matched: Tensor,
    batch_size: int,
) -> None:
    """Decode with a target that keeps no usable state: one whole pass for each token.

    ids: (B,P+S); only the prefix is read.
    """
    suffix = continuation.shape[1]
    prefix = ids[:, : ids.shape[1] - suffix]
    finite = torch.ones_like(matched, dtype=torch.bool)
    for position in range(int(matched[0]) + 1, suffix):
        inexact = torch.nonzero(matched < position).flatten()
        for rows in torch.split(inexact, batch_size):
            known = torch.cat([prefix[rows], continuation[rows, :position]], dim=1)
            inputs = build_inputs(checkpoint, prompt, known, prefix.shape[1])
            logits, _ = last_logits(checkpoint, 1, inputs, use_cache=False)
            continuation[rows, position], is_finite = next_token(logits)
            finite[rows] &= is_finite
    require_finite(checkpoint, finite)


def _embed(checkpoint: Checkpoint, prompt: SoftPrompt, ids: Tensor) -> Tensor:
    return prompt.adapt(checkpoint.embed(ids))
