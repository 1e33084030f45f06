"""Encoding conversations with a model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from vocabridge.alignment import Place, TokenKind, Vocabulary
from vocabridge.models.prompts import BOS_READ, Piece

Messages: TypeAlias = Sequence[Mapping[str, Any]]
"""A conversation: messages with "role" and "content" each, the last of them a user's."""


def conversation_ids(vocabulary: Vocabulary, messages: Messages) -> list[int]:
    """Encode a conversation for the base model, with one bos token in front whether or not the template writes it."""
    ids, bos = vocabulary.encode_prompt(vocabulary.render(messages)).ids.tolist(), vocabulary.bos_ids
    return ids if ids[: len(bos)] == bos else bos + ids


def chat_pieces(vocabulary: Vocabulary, messages: Messages) -> tuple[Piece, ...]:
    """Cut a conversation that the model's own template writes into text and control tokens.

    A bos token that the template writes is left out, because the source stream puts one in front of every text.
    """
    pieces, bos = vocabulary.pieces(vocabulary.render(messages)), vocabulary.bos_ids
    if not bos or pieces[:1] != bos:
        return tuple(pieces)
    space = vocabulary.prefix_space
    return (*([] if space.beginning is space.after_control else [BOS_READ]), *pieces[1:])


def place_after(vocabulary: Vocabulary, ids: Sequence[int]) -> Place:
    """Return the place of text that follows these tokens of a prompt."""
    if not ids or list(ids) == vocabulary.bos_ids:
        return Place.BEGINNING
    return Place.AFTER_CONTROL if vocabulary.kinds[ids[-1]] == TokenKind.CONTROL else Place.INSIDE
