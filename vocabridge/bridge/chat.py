"""Chat prompts: a list of messages, rendered for each model of a bridge with that model's own chat template.

    bridge.generate(**chat_prompt(bridge, [{"role": "user", "content": "How much is 7 times 24?"}]))

The base reads the ids of its own template's text. A value source reads its own template's text in place of the base's
prompt, followed by the text that the base writes. It reads the base's end of a turn as its own end of a turn
(`SourceStream.pieces`). The last words of its template may form one token with the text that follows. Each model gets
its bos token once, if it expects one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from transformers import DynamicCache

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.cache import BridgeCache
from vocabridge.bridge.model import Bridge
from vocabridge.models.chat import Messages, chat_pieces, conversation_ids, place_after
from vocabridge.models.prompts import left_padded, pad_id
from vocabridge.models.transformers_version import CACHE


def chat_prompt(bridge: Bridge, messages: Messages | Sequence[Messages]) -> dict[str, Any]:
    """Return the arguments with which `bridge.generate` answers a conversation, or a batch of conversations.

    Args:
        bridge: The bridge. Every model of it that runs needs a chat template.
        messages: A conversation, or a list of conversations.

    Returns:
        `input_ids` and `attention_mask`, (batch, n), padded on the left, and a cache for one call of `generate` that
        holds the value sources' prompts. The cache's key is `past_key_values`, or `cache` from transformers 5.24 on.

    Raises:
        VocabridgeError: A model has no chat template, or one that does not take these messages; or a conversation is
            empty.
    """
    single = len(messages) > 0 and isinstance(messages[0], Mapping)
    conversations = cast("Sequence[Messages]", [messages] if single else messages)
    if not all(conversations) or not conversations:
        raise VocabridgeError('a conversation has no messages; give at least one, with "role" and "content"')
    rows = [conversation_ids(bridge.vocabulary, conversation) for conversation in conversations]
    prompts = [
        [
            chat_pieces(steering.source.vocabulary, conversation) if steering.is_active else ()
            for steering in bridge.steerings
        ]
        for conversation in conversations
    ]
    batch = left_padded(rows, pad_id(bridge.vocabulary), bridge.device)
    cache = DynamicCache(config=bridge.config.get_text_config(decoder=True))
    places = [place_after(bridge.vocabulary, row) for row in rows]
    return {**batch, CACHE: BridgeCache(cache, prompts, batch["input_ids"].shape[1], places)}
