"""A value source's memory of a batch of growing texts: readers, attention caches, and which slots are alive.

The text that the base model produces is read again in the source's tokens (`Reader`), so a row's ids may change
at their end with every piece of text. The caches here are append-only: a new token gets a new *slot*, a token that
re-tokenisation took back leaves a dead one, and the attention mask says for each token which slots are its past.
Rows roll back independently of each other this way, and many prefixes of one text (teacher forcing asks for the
scores after every one of them) are read in a single forward, as the branches of a tree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from vocabridge.reader import Reader, begin_tokens
from vocabridge.value_source import ValueSource


@dataclass
class _Row:
    """One text of the batch.

    Attributes:
        reader: Its tokens.
        path: The slot of each of the reader's ids, the begin token's in front where there is one.
        alive: (slots,) bool: the slots on the path.
        depths: (slots,) int64: every slot's position in its text; -1 for slots that hold nothing.
    """

    reader: Reader
    path: list[int] = field(default_factory=list)
    alive: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    depths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass
class _Branches:
    """The tokens that one call of `Reading.read` adds to a row, in order of their slots.

    Attributes:
        ids: Token ids.
        depths: Positions.
        pasts: For each token, the alive slots when it was added, itself included; (slots + tokens,) bool each.
        ends: For each piece of text: index of the token that ends it, -1 for the last token of an earlier call,
            None where the source has no say.
    """

    ids: list[int]
    depths: list[int]
    pasts: list[np.ndarray]
    ends: list[int | None]


class Reading:
    """What a value source has read so far, for every row of a batch.

    Attributes:
        models: Names of the source's models that read along; fixed, as their caches must agree.
    """

    def __init__(self, source: ValueSource, models: set[str], batch: int) -> None:
        """Starts with empty texts.

        Args:
            source: The value source.
            models: Those of its models whose logits are wanted.
            batch: Number of rows.
        """
        self.models = models
        self._source = source
        self._rows = [_Row(Reader(source.vocabulary)) for _ in range(batch)]
        self._caches = {name: DynamicCache() for name in models}
        self._last: dict[str, Tensor] = {}  # (batch, |S|), after each row's last token

    @torch.no_grad()
    def read(self, pieces: Sequence[Sequence[bytes]], keep: int) -> tuple[dict[str, Tensor], Tensor]:
        """Reads on, and gives the scores after each of the last `keep` pieces.

        Args:
            pieces: For each row the same number n of byte strings, any of them empty.
            keep: How many positions to answer for, 1 to n.

        Returns:
            Each model's logits, float32 (batch, keep, |S|); and where the source has a say, bool (batch, keep):
            not inside a UTF-8 character, and not before any text.
        """
        grown = [self._grow(row, texts) for row, texts in zip(self._rows, pieces, strict=True)]
        width = max(len(branches.ids) for branches in grown)
        # Row r's tokens take the last of `width` columns; columns are numbered so that an earlier call's is -1.
        ends = [
            [
                None if end is None else end if end < 0 else end + width - len(branches.ids)
                for end in branches.ends[-keep:]
            ]
            for branches in grown
        ]
        final = [width - 1 if branches.ids else -1 for branches in grown]
        device = next(self._source.parameters()).device
        speaks = torch.tensor([[end is not None for end in row] for row in ends], device=device)
        if width:
            wanted = [end for row in ends for end in row if end is not None and end >= 0]
            first = min([*wanted, width - 1])
            logits = self._forward(grown, width, width - first, device)
        else:
            first, logits = 0, {}
        # Index 0 is the last token of an earlier call, the others the columns from `first` on.
        index = torch.tensor(
            [[0 if end is None or end < 0 else end - first + 1 for end in row] for row in ends], device=device
        )
        after = torch.tensor([[0 if end < 0 else end - first + 1] for end in final], device=device)
        result = {}
        for name in self.models:
            size = self._source.vocabulary.size
            last = self._last.get(name, torch.zeros(len(grown), size, device=device)).unsqueeze(1)
            available = torch.cat([last, logits[name]], dim=1) if width else last
            result[name] = _at(available, index)
            self._last[name] = _at(available, after).squeeze(1)
        return result, speaks

    def reorder(self, rows: Tensor) -> None:
        """Keeps the rows with these indices, in this order, as beam search needs it; (batch,) int64."""
        order = rows.tolist()
        self._rows = [
            _Row(
                self._rows[i].reader.copy(),
                list(self._rows[i].path),
                self._rows[i].alive.copy(),
                self._rows[i].depths.copy(),
            )
            for i in order
        ]
        for cache in self._caches.values():
            cache.reorder_cache(cast(torch.LongTensor, rows))
        self._last = {name: last.index_select(0, rows.to(last.device)) for name, last in self._last.items()}

    def _grow(self, row: _Row, texts: Sequence[bytes]) -> _Branches:
        """Pushes pieces of text into a row and collects the tokens that are new to it."""
        begin = begin_tokens(self._source.vocabulary)
        branches = _Branches([], [], [], [])
        old = len(row.alive)
        path = [(slot, False) for slot in row.path]  # (slot or index among the new tokens, is new)
        alive = row.alive

        def add(token: int) -> None:
            nonlocal alive
            index = len(branches.ids)
            branches.ids.append(token)
            branches.depths.append(len(path))
            path.append((index, True))
            alive = np.append(alive, True)
            branches.pasts.append(alive)

        if not path:
            for token in begin:
                add(token)
        for text in texts:
            before = len(path) - len(begin)
            kept = row.reader.push(text)
            ids = row.reader.ids
            if kept == len(ids) < before:  # shrunk to a token whose logits are gone: read it again
                kept -= 1
            if kept < before:
                alive = alive.copy()
                for slot, new in path[len(begin) + kept :]:
                    alive[old + slot if new else slot] = False
                del path[len(begin) + kept :]
            for token in ids[kept:]:
                add(token)
            silent = row.reader.pending or not path
            branches.ends.append(None if silent else path[-1][0] if path[-1][1] else -1)
        row.path, row.alive = [(old + slot if new else slot) for slot, new in path], alive
        return branches

    def _forward(self, grown: Sequence[_Branches], width: int, keep: int, device: torch.device) -> dict[str, Tensor]:
        """Runs the models on the new tokens of all rows; logits of the last `keep` columns, (batch, keep, |S|)."""
        old = len(self._rows[0].depths)
        ids = np.zeros((len(grown), width), np.int64)
        positions = np.zeros((len(grown), width), np.int64)
        past = np.zeros((len(grown), width, old + width), bool)
        # A column that holds no token attends to itself alone: attending to nothing would give NaN.
        past[:, np.arange(width), old + np.arange(width)] = True
        for i, (row, branches) in enumerate(zip(self._rows, grown, strict=True)):
            pad = width - len(branches.ids)
            ids[i, pad:], positions[i, pad:] = branches.ids, branches.depths
            for column, alive in enumerate(branches.pasts, start=pad):
                past[i, column, :old] = alive[:old]
                past[i, column, old + pad : old + pad + len(alive) - old] = alive[old:]
            row.path = [slot + pad if slot >= old else slot for slot in row.path]
            row.alive = np.concatenate([row.alive[:old], np.zeros(pad, bool), row.alive[old:]])
            row.depths = np.concatenate([row.depths, np.full(pad, -1), np.array(branches.depths, np.int64)])
        depths = np.stack([row.depths for row in self._rows])
        inputs = {
            "input_ids": torch.from_numpy(ids).to(device),
            "position_ids": torch.from_numpy(positions).to(device),
        }
        logits = {}
        for name in self.models:
            model = self._source.models[name]
            output = model(
                **inputs,
                attention_mask=attention_masks(model.config, past, positions, depths, device, _dtype(model)),
                past_key_values=self._caches[name],
                use_cache=True,
                logits_to_keep=keep,
            )
            logits[name] = output.logits.float()
        return logits


def _at(values: Tensor, index: Tensor) -> Tensor:
    """values[b, index[b, k]] for every b and k: (batch, n, |S|), (batch, k) -> (batch, k, |S|)."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _dtype(model: torch.nn.Module) -> torch.dtype:
    return next(parameter.dtype for parameter in model.parameters())


def attention_masks(
    config: Any,
    past: np.ndarray,
    positions: np.ndarray,
    depths: np.ndarray,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor | Mapping[str, Tensor]:
    """Additive masks (batch, 1, width, slots), one for each kind of attention that the model's layers have."""

    def additive(allowed: np.ndarray) -> Tensor:
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
