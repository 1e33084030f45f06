"""Encoding prompts for a model: the bos token in front, and left padding for batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from vocabridge.alignment import Vocabulary


def prompt_ids(vocabulary: Vocabulary, text: str) -> list[int]:
    """Encode a text with the model's own tokenizer, after the bos token if the model expects one."""
    return vocabulary.bos_ids + vocabulary.encode_prompt(text).ids.tolist()


def pad_id(vocabulary: Vocabulary) -> int:
    """Return an id to pad the rows of a batch with; without a pad token any id will do, because masks hide it."""
    return vocabulary.roles.get("pad", vocabulary.roles.get("eos", 0))


def left_padded(rows: Sequence[list[int]], pad: int, device: torch.device | None = None) -> dict[str, Tensor]:
    """Pad rows of ids on the left, and return `input_ids` and `attention_mask`, int64 (batch, longest row)."""
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device),
    }


Piece: TypeAlias = bytes | int
"""A piece by which the text of a source grows: bytes of the text, or the id of one of the source's control tokens."""

BOS_READ: Piece = -1
"""A piece that stands for a bos token already read: the text that comes next follows a control token."""
