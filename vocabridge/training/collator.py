"""Batches of training texts: which texts come when, and as what tensors.

The same for any number of processes and parts of a step: batches are of like length, and the last one of an epoch is
filled up with a text of which nothing is learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from vocabridge.training.dataset import Side, TrainingText

IGNORED = -100
"""The label of a token that is not learned."""


class LengthGrouped(Sampler[int]):
    """The order of texts in an epoch: batches of like length, so that little of a batch is padding.

    The last batch is filled up with -1, which stands for nothing, so that every process has as many.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, epoch: Callable[[], int]) -> None:
        """Orders texts of these lengths, in each epoch otherwise; what epoch it is is asked when one begins."""
        self._lengths, self._batch, self._seed, self._epoch = lengths, batch, seed, epoch

    def __len__(self) -> int:
        """Places in an epoch, a multiple of the batch."""
        return math.ceil(len(self._lengths) / self._batch) * self._batch

    def __iter__(self) -> Iterator[int]:
        """Indices of texts."""
        generator = torch.Generator().manual_seed((1_000_003 * self._seed + self._epoch()) % 2**63)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        pool, batches = 16 * self._batch, []
        for start in range(0, len(order), pool):
            chunk = sorted(order[start : start + pool], key=lambda i: self._lengths[i])
            batches += [chunk[i : i + self._batch] for i in range(0, len(chunk), self._batch)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i] + [-1] * (self._batch - len(batches[i]))


class Texts(Dataset[TrainingText]):
    """Texts by index; at -1 one of which nothing is learned.

    Attributes:
        texts: The others.
    """

    def __init__(self, texts: Sequence[TrainingText], sides: int) -> None:
        """Of texts that each have so many sides."""
        self.texts = texts
        self._nothing = TrainingText([0], [False], sides=(Side([0], [False], [-1]),) * sides)

    def __len__(self) -> int:
        """How many there are, that one not among them."""
        return len(self.texts)

    def __getitem__(self, index: int) -> TrainingText:
        """One text."""
        return self._nothing if index == -1 else self.texts[index]


def collate(texts: Sequence[TrainingText]) -> dict[str, Any]:
    """A batch as `TrainingObjective` takes it.

    Places go on through the padding, which no token in front of it sees: only where several texts are packed does
    attention need a mask.
    """
    batch: dict[str, Any] = _padded(texts, [text.positions for text in texts])
    batch["sides"] = []
    for several in zip(*(text.sides for text in texts), strict=True):
        side = _padded(several, [range(len(one.ids)) for one in several])
        behind = torch.full_like(side["labels"], -1)
        for row, one in enumerate(several):
            behind[row, : len(one.behind)] = torch.tensor(one.behind)
        batch["sides"].append(side | {"behind": behind})
    return batch


def _padded(texts: Sequence[TrainingText | Side], places: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    width = max(len(text.ids) for text in texts)
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    labels = torch.full((len(texts), width), IGNORED)
    positions = torch.zeros(len(texts), width, dtype=torch.long)
    for row, (text, own) in enumerate(zip(texts, places, strict=True)):
        size = len(text.ids)
        ids[row, :size] = torch.tensor(text.ids)
        labels[row, :size] = torch.where(torch.tensor(text.learns), ids[row, :size], IGNORED)
        positions[row] = torch.tensor([*own, *range(own[-1] + 1, own[-1] + 1 + width - size)])
    return {"input_ids": ids, "position_ids": positions, "labels": labels}
