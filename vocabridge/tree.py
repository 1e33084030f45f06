"""A tree of token sequences that share their beginnings, read by a model in one forward pass.

Every node is a token after its parent; a model that lets each node attend to its own ancestors only gives, at
once, what it would say after each of the sequences.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import torch
from transformers import PreTrainedModel

from vocabridge.reading import attention_masks

Float32: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

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

    def ancestors(self, node: int) -> list[int]:
        """The nodes from a first token to this node, itself included."""
        path = []
        while node != ROOT:
            path.append(node)
            node = self.parents[node]
        return path[::-1]

    @torch.no_grad()
    def log_probabilities(self, model: PreTrainedModel) -> Float32:
        """What the model says after every node: natural logarithms, float32 (nodes, |S|)."""
        count = len(self.tokens)
        past = np.eye(count, dtype=bool)
        depths = np.zeros(count, np.int64)
        for node, parent in enumerate(self.parents):
            if parent != ROOT:
                past[node] |= past[parent]
                depths[node] = depths[parent] + 1
        device = model.device
        logits = model(
            input_ids=torch.tensor([self.tokens], device=device),
            position_ids=torch.from_numpy(depths)[None].to(device),
            attention_mask=attention_masks(model.config, past[None], depths[None], depths[None], device, model.dtype),
            use_cache=False,
        ).logits[0]
        return logits.float().log_softmax(-1).cpu().numpy()
