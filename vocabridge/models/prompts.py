"""Prompts as a model reads them: the bos token in front, and rows of one batch filled up on the left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from vocabridge.alignment import Vocabulary


def prompt_ids(vocabulary: Vocabulary, text: str) -> list[int]:
    """A text's ids, as the model's own tokenizer gives them, behind the bos token, where the model expects one."""
    return vocabulary.bos_ids + vocabulary.encode_prompt(text).ids.tolist()


def padding(vocabulary: Vocabulary) -> int:
    """An id to fill the rows of a batch with: the padding token's, or any other, as masks hide it."""
    return vocabulary.roles.get("pad", vocabulary.roles.get("eos", 0))


def left_padded(rows: Sequence[list[int]], pad: int, device: torch.device | None = None) -> dict[str, Tensor]:
    """Rows of ids as a batch: `input_ids` and `attention_mask`, int64 (batch, longest row)."""
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device),
    }


Piece: TypeAlias = bytes | int
"""What a text grows by: some of its bytes, or a control token of the source's (which no text spells)."""


BEGUN: Piece = -1
"""Stands for the bos token where it has been read already: what follows stands behind a control token."""
