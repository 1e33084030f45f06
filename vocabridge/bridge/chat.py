"""One list of messages, written for every model of a bridge by that model's own chat template.

    bridge.generate(**chat_prompt(bridge, [{"role": "user", "content": "How much is 7 times 24?"}]))

The base reads the ids of its template's text. A value source reads its own template's text in place of that prompt,
and goes on with what the base writes: the end of a turn is read as its own (`Steering.piece`), and its template's
last words are still open to be one token with what follows. Each model has its bos token once, if it expects one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from transformers import DynamicCache

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.cache import BridgeCache
from vocabridge.bridge.model import Bridge
from vocabridge.models.chat import Messages, _ids, chat_pieces, place_behind
from vocabridge.models.prompts import left_padded, padding
from vocabridge.models.transformers_version import CACHE


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
        [chat_pieces(one.source.vocabulary, conversation) if one.is_active else () for one in bridge.steerings]
        for conversation in conversations
    ]
    batch = left_padded(rows, padding(bridge.vocabulary), bridge.device)
    cache = DynamicCache(config=bridge.config.get_text_config(decoder=True))
    places = [place_behind(bridge.vocabulary, row) for row in rows]
    return {**batch, CACHE: BridgeCache(cache, prompts, batch["input_ids"].shape[1], places)}
