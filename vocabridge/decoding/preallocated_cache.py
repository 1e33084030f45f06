"""A KV cache with preallocated memory, so that most steps copy no old keys and values.

transformers' dynamic layer concatenates the old keys and values with the new ones, which copies all of them at each
step. Its static layer needs the longest length in advance. Here the tensors have capacity for an eighth more tokens,
and are copied only when that is used up.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_MIN_SPARE = 32
"""Spare capacity, in tokens, that a new tensor has at least."""


class PreallocatedCache(Cache):
    """A cache of any number of layers, in which every layer keeps all tokens."""

    def __init__(self) -> None:
        """Start with an empty cache."""
        super().__init__(layer_class_to_replicate=_PreallocatedLayer)

    def select_slots(self, index: Tensor) -> None:
        """Keep the tokens at these indices of each row, in this order; (batch, n) int64."""
        for layer in self.layers:
            cast(_PreallocatedLayer, layer).select_slots(index)


class _PreallocatedLayer(DynamicLayer):
    """A layer whose keys and values (batch, heads, n, d) are views of tensors with spare capacity."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
        self._buffers = [self.keys, self.values]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        self.keys = self._append(0, self.keys, key_states)
        self.values = self._append(1, self.values, value_states)
        return self.keys, self.values

    def select_slots(self, index: Tensor) -> None:
        """Keep the tokens at these indices of each row; (batch, n) int64."""
        if not self.is_initialized:
            return
        assert self.keys is not None
        assert self.values is not None
        slots = index.to(self.keys.device)[:, None, :, None]
        self.keys, self.values = (
            states.gather(2, slots.expand(-1, states.shape[1], -1, states.shape[3]))
            for states in (self.keys, self.values)
        )

    def _append(self, which: int, old: Tensor, new: Tensor) -> Tensor:
        buffer, old_length = self._buffers[which], old.shape[-2]
        length = old_length + new.shape[-2]
        # Reordering the rows makes new tensors, which are no views of the buffer.
        if buffer.data_ptr() != old.data_ptr() or buffer.shape[-2] < length:
            buffer = new.new_empty(*old.shape[:-2], length + max(length // 8, _MIN_SPARE), old.shape[-1])
            buffer[..., :old_length, :] = old
            self._buffers[which] = buffer
        buffer[..., old_length:length, :] = new
        return buffer[..., :length, :]
