"""A key-value cache with room to grow, for greedy decoding from passes already made.

Knows the cache classes of transformers. Knows nothing of prompts or windows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from memaudit.attack.forward import accepted_arguments
from memaudit.target.checkpoint import Checkpoint


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


def probe_cache(checkpoint: Checkpoint) -> CacheShape | None:
    """What the target keeps of a token; None where that is more than keys and values.

    State-space and hybrid models keep a running state that cannot be cut back to an earlier
    position; neither can caches of a kind that we do not know.
    """
    if "past_key_values" not in accepted_arguments(checkpoint):
        return None
    first = torch.zeros(1, 1, dtype=torch.long, device=checkpoint.device)
    output = checkpoint.model(inputs_embeds=checkpoint.embed(first), use_cache=True)
    cache = output.get("past_key_values")
    layers = getattr(cache, "layers", [])
    # Another class keeps more than its layers show (MiniMax), and may want to be given itself.
    if (
        type(cache) is not DynamicCache
        or not layers
        or any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    ):
        return None
    held = [
        states for layer in layers for states in (layer.keys, layer.values) if states is not None
    ]
    return CacheShape(len(layers), sum(states.nbytes for states in held))


def grow_model_cache(checkpoint: Checkpoint, output: Any, place: int) -> dict[str, Any]:
    """What hands a model's own cache or state back to it for the token at ``place``; empty where
    it keeps none.

    Some count the places of the tokens they are given anew in every pass (Bamba, MiniMax).
    """
    for name in ("past_key_values", "cache_params", "state"):
        if output.get(name) is not None:
            state = {name: output[name]}
            break
    else:
        return {}
    if "position_ids" in accepted_arguments(checkpoint):
        at = torch.full((len(output.logits), 1), place, dtype=torch.long, device=checkpoint.device)
        state["position_ids"] = at
    return state
