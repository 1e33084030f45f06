"""A tree of tokens for every row of a batch, read by one or several models: a KV cache with rollback in each row.

A source's view of a text changes at its end: a token is taken back, another is tried, several are looked at that may
follow. So each row is a tree (`TokenTree`), and what the row's text is at the moment is a path in it. A new node gets a
new *slot* in the attention caches, and the attention mask says which slots are its ancestors: rows go back
independently of each other, nothing is read twice while its slot is kept, and many ends of one text are read in one
forward.
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

_KEPT = 4
"""Of so many forwards the logits are kept: a text is mostly taken back by a token or two."""

_LEAST_SLOTS = 64
"""Fewer slots are not worth giving back."""


class TreeDecoder:
    """The trees of a batch, and what the models predict after some of their nodes.

    Attributes:
        trees: A tree a row.
        models: The models that read along, run by `joint_forward.run`; their caches agree, so they stay the same.
        interrupted: Whether a forward was broken off; then they do not agree any more.
    """

    def __init__(self, models: Mapping[str, nn.Module], batch: int) -> None:
        """Start with empty trees."""
        self.models = dict(models)
        self.trees = [TokenTree() for _ in range(batch)]
        self._slots: list[dict[int, int]] = [{} for _ in range(batch)]  # of every node that was read
        self._depths = np.zeros((batch, 0), np.int64)  # of every slot; -1 for slots that hold nothing
        self._anchors = [(ROOT, np.zeros(0, bool)) for _ in range(batch)]  # a node, and the slots on its path
        self._caches = {name: PreallocatedCache() for name in self.models}
        self._predicted: list[dict[int, tuple[int, int]]] = [{} for _ in range(batch)]  # node -> chunk, column of it
        self._chunks: dict[int, dict[str, Tensor]] = {}
        self._forwards = 0
        self._compact_at = _LEAST_SLOTS
        self.interrupted = False

    @classmethod
    def along(
        cls, models: Mapping[str, nn.Module], beginning: Sequence[int], tokens: Sequence[int]
    ) -> tuple[TreeDecoder, list[int]]:
        """Return a decoder of one text, not read yet, and the node in front of each of its tokens; `ROOT` for none."""
        decoder, nodes = cls(models, 1), list[int]()
        last = decoder.trees[0].add(beginning)
        for token in tokens:
            nodes.append(last)
            last = decoder.trees[0].add([token], last)
        return decoder, nodes

    @torch.no_grad()
    def read(self, wanted: Sequence[Sequence[int]]) -> None:
        """Read nodes, and what is in front of them, where they were not read yet.

        Args:
            wanted: For each row the nodes after which the models have to predict. One whose logits are no longer
                kept is read again.
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
        # A column that holds no token attends to itself alone: attending to nothing would give NaN.
        past[:, np.arange(width), old + np.arange(width)] = True
        new_columns: list[dict[int, int]] = []  # the column of every wanted node that is read now
        for row, nodes in enumerate(new):
            tree, masks = self.trees[row], dict[int, Bool]()
            for column, node in enumerate(nodes, start=width - len(nodes)):
                parent = tree.parents[node]
                mask = masks[parent] if parent in masks else self._path(row, parent)
                ids[row, column], depths[row, column] = tree.tokens[node], mask.sum()
                past[row, column, : len(mask)] |= mask
                masks[node] = past[row, column]
                self._slots[row][node] = old + column
            at = dict(zip(nodes, range(width - len(nodes), width), strict=True))
            new_columns.append({node: at[node] for node in wanted[row] if node in at})
        self._depths = np.concatenate([self._depths, depths], 1)
        order = sorted({column for columns in new_columns for column in columns.values()}) or [width - 1]
        place = {column: i for i, column in enumerate(order)}
        for predicted, columns in zip(self._predicted, new_columns, strict=True):
            predicted |= {node: (self._forwards, place[column]) for node, column in columns.items()}
        self._chunks[self._forwards] = self._forward(ids, np.maximum(depths, 0), past, order)
        self._forwards += 1
        self._forget(wanted)
        self.interrupted = False

    def _unread(self, row: int, wanted: Sequence[int]) -> list[int]:
        """Return the nodes that have to be read so that the models predict after some, parents before children."""
        slots, parents = self._slots[row], self.trees[row].parents
        again = {node for node in wanted if node in slots and node not in self._predicted[row]}
        new: set[int] = set()
        for node in wanted:
            while node != ROOT and node not in slots and node not in new:
                new.add(node)
                node = parents[node]
        return [*sorted(again), *sorted(new)]

    def _forget(self, wanted: Sequence[Sequence[int]]) -> None:
        """Drop the logits of old forwards, but for those that were just wanted."""
        oldest = self._forwards - _KEPT
        for nodes, predicted in zip(wanted, self._predicted, strict=True):
            for node in [node for node, (chunk, _) in predicted.items() if chunk < oldest and node not in nodes]:
                del predicted[node]
        used = {chunk for predicted in self._predicted for chunk, _ in predicted.values()}
        self._chunks = {chunk: logits for chunk, logits in self._chunks.items() if chunk in used}

    def _forward(self, ids: np.ndarray, positions: np.ndarray, past: Bool, columns: list[int]) -> dict[str, Tensor]:
        """Run the models on new columns; return their logits (batch, k, |S|) after those asked for."""

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

    def knows(self, row: int, node: int) -> bool:
        """Whether `logits` can be asked for what follows a node."""
        return node in self._predicted[row]

    def logits(self, entries: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """Return the models' logits after some nodes, float32 (entries, |S|) by model.

        Args:
            entries: Row and node each, among those last wanted.
        """
        places = [(*self._predicted[row][node], row, i) for i, (row, node) in enumerate(entries)]
        by_chunk: dict[int, list[tuple[int, int, int]]] = {}
        for chunk, column, row, i in places:
            by_chunk.setdefault(chunk, []).append((row, column, i))
        order = [i for of_chunk in by_chunk.values() for _, _, i in of_chunk]
        result = {}
        for name in self.models:
            parts = []
            for chunk, of_chunk in by_chunk.items():
                logits = self._chunks[chunk][name]
                index = torch.tensor([(row, column) for row, column, _ in of_chunk], device=logits.device)
                parts.append(logits[index[:, 0], index[:, 1]].float())
            joined = parts[0] if len(parts) == 1 else torch.cat(parts)
            if order != sorted(order):
                joined = joined[torch.tensor(np.argsort(order), device=joined.device)]
            result[name] = joined
        return result

    def commit_prefixes(self, nodes: Sequence[int]) -> None:
        """Commit each row's text up to a node: what comes next will stand behind it; `ROOT` commits nothing.

        Slots that hold nothing on the way to a committed node, or to a node after which the models have just predicted,
        are given back from time to time. A node that lost its slot is read again when it is wanted.
        """
        for row, node in enumerate(nodes):
            if node in self._slots[row]:
                self._anchors[row] = (node, self._path(row, node))
        if self._depths.shape[1] >= self._compact_at:
            self._compact()

    def _compact(self) -> None:
        """Give slots back if they are an eighth of all."""
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
        self._compact_at = max(_LEAST_SLOTS, 9 * self._depths.shape[1] // 8)

    def _path(self, row: int, node: int) -> Bool:
        """Return the slots of a node and its ancestors, (slots,) bool."""
        tree, slots, (anchor, known) = self.trees[row], self._slots[row], self._anchors[row]
        mask, above = np.zeros(self._depths.shape[1], bool), []
        while node not in (ROOT, anchor):
            above.append(slots[node])
            node = tree.parents[node]
        if node != ROOT:
            mask[: len(known)] = known
        in_cache = [slot for slot in above if slot < len(mask)]
        mask[in_cache] = True
        if len(in_cache) < len(above):  # an ancestor that is being read in this very forward
            mask = np.concatenate([mask, np.zeros(max(above) + 1 - len(mask), bool)])
            mask[above] = True
        return mask

    def reorder(self, rows: Tensor) -> None:
        """Keep the rows with these indices, in this order; (rows,) int64, any number of them."""
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
