"""A tree of token sequences that share their beginnings, and the masks with which a model reads one.

Every node is a token after its parent; a model that lets each node attend to its own ancestors only gives, at
once, what it would say after each of the sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from vocabridge.alignment.arrays import Bool, Int64

ROOT = -1
"""The parent of a sequence's first token."""


class TokenTree:
    """Token sequences, common beginnings kept once.

    Attributes:
        tokens: The token of every node, parents before children.
        parents: The parent of every node, `ROOT` for a first token.
    """

    def __init__(self) -> None:
        """Starts without any sequence."""
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def add(self, tokens: Iterable[int], after: int = ROOT) -> int:
        """Adds a sequence behind a node and returns its last node; `after` itself for no tokens."""
        for token in tokens:
            child = self._children.get((after, token))
            if child is None:
                child = self._children[after, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(after)
            after = child
        return after

    def copy(self) -> TokenTree:
        """An independent tree of the same sequences."""
        other = TokenTree()
        other.tokens, other.parents = list(self.tokens), list(self.parents)
        other._children = dict(self._children)
        return other

    def ancestors(self, node: int) -> list[int]:
        """The nodes from a first token to this node, itself included."""
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
    """Additive masks (batch, 1, width, slots), one for each kind of attention that the model's layers have."""

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
