"""An attention cache with room for what comes, so that a step writes what is new and copies nothing.

transformers' dynamic layer joins the old keys and values with the new ones at each step, which copies them all; a
static one needs to know the longest text beforehand. Here the tensors have room for an eighth more, and are copied
when it is used up.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_LEAST = 32
"""Room for at least so many tokens."""


class PreallocatedCache(Cache):
    """A cache of any number of layers that keep all tokens."""

    def __init__(self) -> None:
        """Starts empty."""
        super().__init__(layer_class_to_replicate=_PreallocatedLayer)

    def select_slots(self, index: Tensor) -> None:
        """Keep some tokens of each row, in this order; (batch, n) int64."""
        for layer in self.layers:
            cast(_PreallocatedLayer, layer).select_slots(index)


class _PreallocatedLayer(DynamicLayer):
    """Its keys and values (batch, heads, n, d) are the beginnings of tensors with room for more."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
        self._rooms = [self.keys, self.values]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        self.keys = self._append(0, self.keys, key_states)
        self.values = self._append(1, self.values, value_states)
        return self.keys, self.values

    def select_slots(self, index: Tensor) -> None:
        """Keep some tokens of each row; (batch, n) int64."""
        if not self.is_initialized:
            return
        assert self.keys is not None
        assert self.values is not None
        at = index.to(self.keys.device)[:, None, :, None]
        self.keys, self.values = (
            states.gather(2, at.expand(-1, states.shape[1], -1, states.shape[3])) for states in (self.keys, self.values)
        )

    def _append(self, which: int, old: Tensor, new: Tensor) -> Tensor:
        room, size = self._rooms[which], old.shape[-2]
        longer = size + new.shape[-2]
        # Rows in another order are other tensors, without room.
        if room.data_ptr() != old.data_ptr() or room.shape[-2] < longer:
            room = new.new_empty(*old.shape[:-2], longer + max(longer // 8, _LEAST), old.shape[-1])
            room[..., :size, :] = old
            self._rooms[which] = room
        room[..., size:longer, :] = new
        return room[..., :longer, :]
