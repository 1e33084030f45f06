"""One list of messages, written for every model of a bridge by that model's own chat template.

    bridge.generate(**chat_prompt(bridge, [{"role": "user", "content": "How much is 7 times 24?"}]))

The base reads the ids of its template's text. A value source reads its own template's text in place of that prompt,
and goes on with what the base writes: the end of a turn is read as its own (`Steering.piece`), and its template's
last words are still open to be one token with what follows. Each model has its begin token once, if it expects one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from transformers import DynamicCache

from vocabridge.alignment import Place, TokenKind, VocabridgeError, Vocabulary
from vocabridge.bridge.model.model.model.cache import BridgeCache
from vocabridge.bridge.model.model.model.model import Bridge
from vocabridge.decoding.incremental_tokenizer import BEGUN, Piece, begin_tokens
from vocabridge.models.loading.loading.loading.prompts import left_padded, padding
from vocabridge.models.loading.loading.loading.transformers_version import CACHE

Messages: TypeAlias = Sequence[Mapping[str, Any]]
"""A conversation: messages with "role" and "content" each, the last of them a user's."""


def chat_prompt(bridge: Bridge, messages: Messages | Sequence[Messages]) -> dict[str, Any]:
    """The arguments of `bridge.generate` that have it answer a conversation, or a batch of them.

    Args:
        bridge: The bridge; every model of it that runs needs a chat template.
        messages: One conversation or several.

    Returns:
        `input_ids` and `attention_mask`, (batch, n), padded on the left; and a cache for one call of `generate`, which
        holds what the value sources read: `past_key_values`, from transformers 5.24 on `cache`.

    Raises:
        VocabridgeError: A model has no chat template, or one that does not take these messages; or there are none.
    """
    single = len(messages) > 0 and isinstance(messages[0], Mapping)
    conversations = cast("Sequence[Messages]", [messages] if single else messages)
    if not all(conversations) or not conversations:
        raise VocabridgeError('a conversation has no messages; give at least one, with "role" and "content"')
    rows = [_ids(bridge.vocabulary, conversation) for conversation in conversations]
    prompts = [
        [() if one.is_inactive else chat_pieces(one.source.vocabulary, conversation) for one in bridge.steerings]
        for conversation in conversations
    ]
    batch = left_padded(rows, padding(bridge.vocabulary), bridge.device)
    cache = DynamicCache(config=bridge.config.get_text_config(decoder=True))
    places = [place_behind(bridge.vocabulary, row) for row in rows]
    return {**batch, CACHE: BridgeCache(cache, prompts, batch["input_ids"].shape[1], places)}


def _ids(vocabulary: Vocabulary, messages: Messages) -> list[int]:
    """What the base reads: its begin token, whether the template writes it or not."""
    ids, begin = vocabulary.encode_prompt(vocabulary.render(messages)).ids.tolist(), begin_tokens(vocabulary)
    return ids if ids[: len(begin)] == begin else begin + ids


def chat_pieces(vocabulary: Vocabulary, messages: Messages) -> tuple[Piece, ...]:
    """A conversation as a model reads it, by its own template, behind the begin token that a reader puts in front."""
    pieces, begin = vocabulary.pieces(vocabulary.render(messages)), begin_tokens(vocabulary)
    if not begin or pieces[:1] != begin:
        return tuple(pieces)
    space = vocabulary.prefix_space
    return (*([] if space.beginning is space.behind_control else [BEGUN]), *pieces[1:])


def place_behind(vocabulary: Vocabulary, ids: Sequence[int]) -> Place:
    """Where text stands that follows some tokens of a prompt."""
    if not ids or list(ids) == begin_tokens(vocabulary):
        return Place.BEGINNING
    return Place.BEHIND_CONTROL if vocabulary.kinds[ids[-1]] == TokenKind.CONTROL else Place.INSIDE
