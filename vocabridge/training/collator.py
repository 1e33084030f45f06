"""Batches of training texts: the order of the texts in an epoch, and their tensors.

The batches of a step are the same for any number of processes and parts. Each batch holds texts of similar length, and
the last batch of an epoch is filled up with texts without learned tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from vocabridge.training.dataset import AlignedText, TrainingText

IGNORE_INDEX = -100
"""Label of a token that is not learned."""


class LengthGroupedSampler(Sampler[int]):
    """A sampler of batches with texts of similar length, so that batches hold little padding.

    The last batch is filled up with the index -1, so that all processes get the same number of texts.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, epoch: Callable[[], int]) -> None:
        """Initialize the sampler.

        Args:
            lengths: Lengths of the texts in tokens.
            batch: Number of texts in a batch.
            seed: Seed of the order.
            epoch: Returns the number of the current epoch, on which the order depends; called when an epoch begins.
        """
        self._lengths, self._batch, self._seed, self._epoch = lengths, batch, seed, epoch

    def __len__(self) -> int:
        """Return the number of indices in an epoch, a multiple of the batch size."""
        return math.ceil(len(self._lengths) / self._batch) * self._batch

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of texts, and -1 to fill up the last batch."""
        generator = torch.Generator().manual_seed((1_000_003 * self._seed + self._epoch()) % 2**63)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        pool, batches = 16 * self._batch, []
        for start in range(0, len(order), pool):
            chunk = sorted(order[start : start + pool], key=lambda i: self._lengths[i])
            batches += [chunk[i : i + self._batch] for i in range(0, len(chunk), self._batch)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i] + [-1] * (self._batch - len(batches[i]))


class TextDataset(Dataset[TrainingText]):
    """Training texts by index, with a text without learned tokens at index -1.

    Attributes:
        texts: The training texts, without the one at index -1.
    """

    def __init__(self, texts: Sequence[TrainingText], n_aligned: int) -> None:
        """Initialize a data set of texts that each have `n_aligned` aligned texts."""
        self.texts = texts
        self._filler = TrainingText([0], [False], aligned=(AlignedText([0], [False], [-1]),) * n_aligned)

    def __len__(self) -> int:
        """Return the number of texts, without the one at index -1."""
        return len(self.texts)

    def __getitem__(self, index: int) -> TrainingText:
        """Return a text."""
        return self._filler if index == -1 else self.texts[index]


def collate(texts: Sequence[TrainingText]) -> dict[str, Any]:
    """Make a batch of texts, with the keyword arguments of `TrainingObjective.forward`.

    Position ids continue through the padding on the right. Causal attention hides the padding from all tokens in front
    of it, so only packed texts need an attention mask.
    """
    batch: dict[str, Any] = _pad(texts, [text.positions for text in texts])
    batch["aligned"] = []
    for rows in zip(*(text.aligned for text in texts), strict=True):
        tensors = _pad(rows, [range(len(row.ids)) for row in rows])
        source_indices = torch.full_like(tensors["labels"], -1)
        for i, row in enumerate(rows):
            source_indices[i, : len(row.source_indices)] = torch.tensor(row.source_indices)
        batch["aligned"].append(tensors | {"source_indices": source_indices})
    return batch


def _pad(texts: Sequence[TrainingText | AlignedText], positions: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return the ids, position ids and labels of texts, padded on the right; (batch, n) int64 each."""
    width = max(len(text.ids) for text in texts)
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    labels = torch.full((len(texts), width), IGNORE_INDEX)
    position_ids = torch.zeros(len(texts), width, dtype=torch.long)
    for row, (text, places) in enumerate(zip(texts, positions, strict=True)):
        size = len(text.ids)
        ids[row, :size] = torch.tensor(text.ids)
        labels[row, :size] = torch.where(torch.tensor(text.learned), ids[row, :size], IGNORE_INDEX)
        next_position = places[-1] + 1
        position_ids[row] = torch.tensor([*places, *range(next_position, next_position + width - size)])
    return {"input_ids": ids, "position_ids": position_ids, "labels": labels}
