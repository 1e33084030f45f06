"""Conversations as a model reads them, by its own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from vocabridge.alignment import Place, TokenKind, Vocabulary
from vocabridge.models.prompts import BEGUN, Piece

Messages: TypeAlias = Sequence[Mapping[str, Any]]
"""A conversation: messages with "role" and "content" each, the last of them a user's."""


def _ids(vocabulary: Vocabulary, messages: Messages) -> list[int]:
    """What the base reads: its bos token, whether the template writes it or not."""
    ids, begin = vocabulary.encode_prompt(vocabulary.render(messages)).ids.tolist(), vocabulary.bos_ids
    return ids if ids[: len(begin)] == begin else begin + ids


def chat_pieces(vocabulary: Vocabulary, messages: Messages) -> tuple[Piece, ...]:
    """A conversation as a model reads it, by its own template, behind the bos token that a reader puts in front."""
    pieces, begin = vocabulary.pieces(vocabulary.render(messages)), vocabulary.bos_ids
    if not begin or pieces[:1] != begin:
        return tuple(pieces)
    space = vocabulary.prefix_space
    return (*([] if space.beginning is space.behind_control else [BEGUN]), *pieces[1:])


def place_behind(vocabulary: Vocabulary, ids: Sequence[int]) -> Place:
    """Where text stands that follows some tokens of a prompt."""
    if not ids or list(ids) == vocabulary.bos_ids:
        return Place.BEGINNING
    return Place.BEHIND_CONTROL if vocabulary.kinds[ids[-1]] == TokenKind.CONTROL else Place.INSIDE
