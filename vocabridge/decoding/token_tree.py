"""A tree of token sequences with shared prefixes, and the attention masks for it.

Every node is a token after its parent. If each node attends only to its ancestors, one forward of a model gives the
predictions after all sequences of the tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from vocabridge.alignment.arrays import Bool, Int64

ROOT = -1
"""Parent of the first token of a sequence."""


class TokenTree:
    """Token sequences, whose common prefixes are stored once.

    Attributes:
        tokens: Token of each node; parents come before their children.
        parents: Parent of each node, `ROOT` for the first token of a sequence.
    """

    def __init__(self) -> None:
        """Start with an empty tree."""
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def add(self, tokens: Iterable[int], after: int = ROOT) -> int:
        """Add a sequence after a node, and return the sequence's last node; `after` itself if there are no tokens."""
        for token in tokens:
            child = self._children.get((after, token))
            if child is None:
                child = self._children[after, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(after)
            after = child
        return after

    def copy(self) -> TokenTree:
        """Return an independent copy of the tree."""
        clone = TokenTree()
        clone.tokens, clone.parents = list(self.tokens), list(self.parents)
        clone._children = dict(self._children)
        return clone

    def ancestors(self, node: int) -> list[int]:
        """Return the path from the first token of a sequence to a node, both included."""
        path = []
        while node != ROOT:
            path.append(node)
            node = self.parents[node]
        return path[::-1]


def attention_masks(
    config: Any,
    past: Bool,
    positions: Int64,
    depths: Int64,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor | Mapping[str, Tensor]:
    """Return additive masks (batch, 1, width, slots), one for each kind of attention in the layers of a model.

    Args:
        config: Configuration of the model.
        past: Slots to which each new token attends in full attention, (batch, width, slots).
        positions: Position of each new token in its text, (batch, width).
        depths: Position of the token in each slot, (batch, slots); -1 for an empty slot.
        device: Device of the masks.
        dtype: Dtype of the masks.

    Returns:
        A mask, or masks by layer type for a model with full and sliding attention.
    """

    def additive(allowed: Bool) -> Tensor:
        mask = torch.zeros(allowed.shape, dtype=dtype)
        return mask.masked_fill_(~torch.from_numpy(allowed), torch.finfo(dtype).min).unsqueeze(1).to(device)

    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if window is None or kinds == {"full_attention"}:
        return additive(past)
    near = past & ((positions[:, :, None] - depths[:, None, :] < window) | (depths[:, None, :] < 0))
    if len(kinds) < 2:
        return additive(near)
    return {"full_attention": additive(past), "sliding_attention": additive(near)}
