"""A key-value cache with room to grow, for greedy decoding from a pass already made.

Knows the cache classes of transformers. Knows nothing of prompts or windows.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer in a buffer allocated once.

    The stock layer copies everything it holds at every step; this one writes the new step in
    place. What it holds is the same, and ``keys``/``values`` are views of it.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (B,heads,T,d) states and return all that is held."""
        if self._buffers is None:
            self.lazy_initialization(key_states, value_states)
            self._buffers = (self._room_for(key_states), self._room_for(value_states))
            start = 0
        else:
            start = self.keys.shape[-2]
        keys, values = self._buffers
        end = start + key_states.shape[-2]
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def _room_for(self, states: Tensor) -> Tensor:
        batch, heads, _, width = states.shape
        return states.new_empty(batch, heads, self.capacity, width)

    def keep(self, rows: Tensor, length: int) -> None:
        """Keep these rows of the batch, and of each the first ``length`` positions."""
        if self._buffers is None:  # a layer that shares another layer's states
            return
        kept = []
        for buffer in self._buffers:
            room = buffer.new_empty(len(rows), *buffer.shape[1:])
            room[:, :, :length] = buffer[rows, :, :length]
            kept.append(room)
        self._buffers = (kept[0], kept[1])
        self.keys, self.values = kept[0][:, :, :length], kept[1][:, :, :length]


class RoomyCache(DynamicCache):  # type: ignore[misc]
    """One :class:`RoomyLayer` per layer of the target."""

    def __init__(self, layers: int, capacity: int) -> None:
        super().__init__()
        self.layers = [RoomyLayer(capacity) for _ in range(layers)]
        # The base class would otherwise add stock layers on demand.
        self.layer_class_to_replicate = None

    def keep(self, rows: Tensor, length: int) -> None:
        """Keep these rows of the batch, and of each the first ``length`` positions."""
        for layer in self.layers:
            layer.keep(rows, length)


def count_attention_layers(config: Any) -> int | None:
    """Layers of a target that keeps nothing but keys and values; None for any other.

    State-space and hybrid models keep a running state that cannot be cut back to an earlier
    position; neither can caches of a kind that we do not know.
    """
    try:
        layers = DynamicCache(config=config).layers
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return len(layers) if layers and plain else None


def grow_model_cache(output: Any) -> dict[str, Any]:
    """The argument that hands a model's own cache or state back to it for the next step."""
    for name in ("past_key_values", "cache_params"):
        if output.get(name) is not None:
            return {name: output[name]}
    return {}
