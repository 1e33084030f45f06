"""Models that decode a tree of tokens for each row of a batch, with a KV cache that each row can roll back.

The end of a source's text changes: tokens are taken back, other tokens are tried, and several continuations are
evaluated at once. So each row has a tree of tokens (`TokenTree`), and the current text of the row is a path in it. A
new node gets a new *slot* in the KV caches, and the attention mask selects the slots of the node's ancestors. Thus rows
roll back independently, a node is read once while its slot is kept, and one forward reads many ends of a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from vocabridge.alignment.arrays import Bool
from vocabridge.decoding.gqa_attention import grouped_attention
from vocabridge.decoding.preallocated_cache import PreallocatedCache
from vocabridge.decoding.token_tree import ROOT, TokenTree, attention_masks
from vocabridge.models.joint_forward import run
from vocabridge.models.transformers_version import CACHE

_KEPT_FORWARDS = 4
"""Number of latest forwards whose logits are kept, because most rollbacks are by one or two tokens."""

_MIN_SLOTS = 64
"""Number of slots below which none are freed."""


class TreeDecoder:
    """The token trees of a batch, with the logits of models after nodes of the trees.

    Attributes:
        trees: The tree of each row.
        models: The models, run by `joint_forward.run`. They cannot change later, because their caches have the same
            slots.
        interrupted: Whether a forward was interrupted, so that the caches may differ and the decoder is unusable.
    """

    def __init__(self, models: Mapping[str, nn.Module], batch: int) -> None:
        """Start with empty trees."""
        self.models = dict(models)
        self.trees = [TokenTree() for _ in range(batch)]
        self._slots: list[dict[int, int]] = [{} for _ in range(batch)]  # row -> node -> slot
        self._depths = np.zeros((batch, 0), np.int64)  # depth of the token in each slot; -1 if empty
        self._anchors = [(ROOT, np.zeros(0, bool)) for _ in range(batch)]  # committed node, mask of its path's slots
        self._caches = {name: PreallocatedCache() for name in self.models}
        self._predicted: list[dict[int, tuple[int, int]]] = [{} for _ in range(batch)]  # node -> (chunk, column)
        self._chunks: dict[int, dict[str, Tensor]] = {}
        self._forwards = 0
        self._compact_at = _MIN_SLOTS
        self.interrupted = False

    @classmethod
    def for_text(
        cls, models: Mapping[str, nn.Module], prefix: Sequence[int], tokens: Sequence[int]
    ) -> tuple[TreeDecoder, list[int]]:
        """Return a decoder of one text, before any forward, and the node in front of each token.

        Args:
            models: The models.
            prefix: Tokens in front of the text, such as the bos token; may be empty.
            tokens: Tokens of the text.

        Returns:
            The decoder, and for each of `tokens` the node in front of it; `ROOT` if there is none.
        """
        decoder, nodes = cls(models, 1), list[int]()
        last = decoder.trees[0].add(prefix)
        for token in tokens:
            nodes.append(last)
            last = decoder.trees[0].add([token], last)
        return decoder, nodes

    @torch.no_grad()
    def read(self, wanted: Sequence[Sequence[int]]) -> None:
        """Run the models on nodes and their ancestors, unless they have been read.

        Args:
            wanted: For each row, the nodes after which logits are needed. A node whose logits are no longer kept is
                read again.
        """
        new = [self._unread(row, nodes) for row, nodes in enumerate(wanted)]
        width = max(map(len, new))
        if not width:
            return
        self.interrupted = True
        old = self._depths.shape[1]
        ids = np.zeros((len(new), width), np.int64)
        depths = np.full((len(new), width), -1, np.int64)
        past = np.zeros((len(new), width, old + width), bool)
        # An empty column attends to itself, because attention to nothing would give NaN.
        past[:, np.arange(width), old + np.arange(width)] = True
        new_columns: list[dict[int, int]] = []  # row -> wanted node -> column in this forward
        for row, nodes in enumerate(new):
            tree, masks = self.trees[row], dict[int, Bool]()
            for column, node in enumerate(nodes, start=width - len(nodes)):
                parent = tree.parents[node]
                mask = masks[parent] if parent in masks else self._path(row, parent)
                ids[row, column], depths[row, column] = tree.tokens[node], mask.sum()
                past[row, column, : len(mask)] |= mask
                masks[node] = past[row, column]
                self._slots[row][node] = old + column
            column_of = dict(zip(nodes, range(width - len(nodes), width), strict=True))
            new_columns.append({node: column_of[node] for node in wanted[row] if node in column_of})
        self._depths = np.concatenate([self._depths, depths], 1)
        kept_columns = sorted({column for columns in new_columns for column in columns.values()}) or [width - 1]
        index = {column: i for i, column in enumerate(kept_columns)}
        for predicted, columns in zip(self._predicted, new_columns, strict=True):
            predicted |= {node: (self._forwards, index[column]) for node, column in columns.items()}
        self._chunks[self._forwards] = self._forward(ids, np.maximum(depths, 0), past, kept_columns)
        self._forwards += 1
        self._drop_old_logits(wanted)
        self.interrupted = False

    def _unread(self, row: int, wanted: Sequence[int]) -> list[int]:
        """Return the nodes that must be read for logits after the wanted nodes, parents before children."""
        slots, parents = self._slots[row], self.trees[row].parents
        again = {node for node in wanted if node in slots and node not in self._predicted[row]}
        new: set[int] = set()
        for node in wanted:
            while node != ROOT and node not in slots and node not in new:
                new.add(node)
                node = parents[node]
        return [*sorted(again), *sorted(new)]

    def _drop_old_logits(self, wanted: Sequence[Sequence[int]]) -> None:
        """Drop the logits of old forwards, except those of the wanted nodes."""
        oldest = self._forwards - _KEPT_FORWARDS
        for nodes, predicted in zip(wanted, self._predicted, strict=True):
            for node in [node for node, (chunk, _) in predicted.items() if chunk < oldest and node not in nodes]:
                del predicted[node]
        used = {chunk for predicted in self._predicted for chunk, _ in predicted.values()}
        self._chunks = {chunk: logits for chunk, logits in self._chunks.items() if chunk in used}

    def _forward(self, ids: np.ndarray, positions: np.ndarray, past: Bool, columns: list[int]) -> dict[str, Tensor]:
        """Run the models on new columns; return their logits (batch, k, |S|) after the given ones."""

        def inputs(name: str) -> dict[str, object]:
            model = self.models[name]
            parameter = next(model.parameters())
            device = parameter.device
            return {
                "input_ids": torch.from_numpy(ids).to(device),
                "position_ids": torch.from_numpy(positions).to(device),
                "attention_mask": attention_masks(model.config, past, positions, self._depths, device, parameter.dtype),
                CACHE: self._caches[name],
                "use_cache": True,
            }

        with grouped_attention(self.models.values()):
            return run(self.models, inputs, torch.tensor(columns))

    def has_logits(self, row: int, node: int) -> bool:
        """Tell whether the logits after a node are available."""
        return node in self._predicted[row]

    def logits(self, entries: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """Return the logits after nodes, float32 (entries, |S|) for each model.

        Args:
            entries: Rows and nodes, for which `has_logits` is true.
        """
        by_chunk: dict[int, list[tuple[int, int, int]]] = {}
        for i, (row, node) in enumerate(entries):
            chunk, column = self._predicted[row][node]
            by_chunk.setdefault(chunk, []).append((row, column, i))
        order = [i for items in by_chunk.values() for _, _, i in items]
        result = {}
        for name in self.models:
            parts = []
            for chunk, items in by_chunk.items():
                logits = self._chunks[chunk][name]
                index = torch.tensor([(row, column) for row, column, _ in items], device=logits.device)
                parts.append(logits[index[:, 0], index[:, 1]].float())
            all_logits = parts[0] if len(parts) == 1 else torch.cat(parts)
            if order != sorted(order):
                all_logits = all_logits[torch.tensor(np.argsort(order), device=all_logits.device)]
            result[name] = all_logits
        return result

    def commit_prefixes(self, nodes: Sequence[int]) -> None:
        """Commit the text of each row up to a node, after which all later text will be; `ROOT` commits nothing.

        From time to time, the decoder frees the slots that are not on the path to a committed node or to a node with
        logits. A node without its slot is read again when it is wanted.
        """
        for row, node in enumerate(nodes):
            if node in self._slots[row]:
                self._anchors[row] = (node, self._path(row, node))
        if self._depths.shape[1] >= self._compact_at:
            self._compact()

    def _compact(self) -> None:
        """Free unused slots if they are at least an eighth of all slots."""
        kept = []
        for row, predicted in enumerate(self._predicted):
            mask = np.zeros(self._depths.shape[1], bool)
            for node in [self._anchors[row][0], *predicted]:
                path = self._path(row, node)
                mask[: len(path)] |= path
            kept.append(np.flatnonzero(mask))
        width, before = max(map(len, kept)), self._depths.shape[1]
        if width <= 7 * before // 8:
            index = np.zeros((len(kept), width), np.int64)
            depths = np.full((len(kept), width), -1, np.int64)
            for row, slots in enumerate(kept):
                index[row, : len(slots)] = slots
                depths[row, : len(slots)] = self._depths[row, slots]
                moved = dict(zip(slots.tolist(), range(len(slots)), strict=True))
                self._slots[row] = {node: moved[slot] for node, slot in self._slots[row].items() if slot in moved}
            self._depths = depths
            committed = [node for node, _ in self._anchors]
            self._anchors = [(ROOT, np.zeros(0, bool))] * len(committed)
            self._anchors = [(node, self._path(row, node)) for row, node in enumerate(committed)]
            for cache in self._caches.values():
                cache.select_slots(torch.from_numpy(index))
        self._compact_at = max(_MIN_SLOTS, 9 * self._depths.shape[1] // 8)

    def _path(self, row: int, node: int) -> Bool:
        """Return a mask of the slots of a node and its ancestors, (slots,) bool."""
        tree, slots, (anchor, anchor_mask) = self.trees[row], self._slots[row], self._anchors[row]
        mask, above = np.zeros(self._depths.shape[1], bool), []
        while node not in (ROOT, anchor):
            above.append(slots[node])
            node = tree.parents[node]
        if node != ROOT:
            mask[: len(anchor_mask)] = anchor_mask
        in_cache = [slot for slot in above if slot < len(mask)]
        mask[in_cache] = True
        if len(in_cache) < len(above):  # an ancestor is read in the current forward
            mask = np.concatenate([mask, np.zeros(max(above) + 1 - len(mask), bool)])
            mask[above] = True
        return mask

    def reorder(self, rows: Tensor) -> None:
        """Keep the rows with these indices, in this order; (rows,) int64 of any size."""
        order = rows.tolist()
        self.trees = [self.trees[i].copy() for i in order]
        self._slots = [dict(self._slots[i]) for i in order]
        self._predicted = [dict(self._predicted[i]) for i in order]
        self._anchors = [self._anchors[i] for i in order]
        self._depths = self._depths[order]
        for cache in self._caches.values():
            if cache.get_seq_length():
                cache.reorder_cache(cast(torch.LongTensor, rows))
        self._chunks = {
            chunk: {name: tensor.index_select(0, rows.to(tensor.device)) for name, tensor in logits.items()}
            for chunk, logits in self._chunks.items()
        }
