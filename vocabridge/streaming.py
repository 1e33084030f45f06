"""Greedy text from a bridge, as it comes: one forward a token, whole characters only.

The same tokens as `Bridge.generate` gives without sampling, as text. A character whose bytes are spread over
several tokens appears with the last of them.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

import torch

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge import Bridge
from vocabridge.bridge_cache import BridgeCache
from vocabridge.reader import begin_tokens


def stream(bridge: Bridge, prompt: str, max_new_tokens: int) -> Iterator[str]:
    """Continues a text.

    Args:
        bridge: The bridge.
        prompt: The text to continue.
        max_new_tokens: Stop after so many tokens of the base model, if it has not ended before.

    Yields:
        Pieces of the continuation, none empty; bytes that are no text appear as U+FFFD.

    Raises:
        VocabridgeError: The prompt is empty and the base model has no begin token to start from.
    """
    vocabulary = bridge.vocabulary
    ids = begin_tokens(vocabulary) + vocabulary.encode(prompt).ids.tolist()
    if not ids:
        raise VocabridgeError("the prompt is empty and the base model has no begin token; give it some text")
    ends = _end_tokens(bridge)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    cache: BridgeCache | None = None
    for _ in range(max_new_tokens):
        token, cache = _next(bridge, ids, cache)
        if token in ends:
            break
        if text := decoder.decode(vocabulary.token_bytes[token] or b""):
            yield text
        ids = [token]
    if text := decoder.decode(b"", final=True):
        yield text


def _end_tokens(bridge: Bridge) -> set[int]:
    """The end token of the tokenizer, and those of the base model's generation configuration."""
    configured = bridge.generation_config.eos_token_id
    ends = {configured} if isinstance(configured, int) else set(configured or ())
    return ends | {i for role, i in bridge.vocabulary.roles.items() if role == "end"}


@torch.no_grad()
def _next(bridge: Bridge, ids: list[int], cache: BridgeCache | None) -> tuple[int, BridgeCache]:
    """The likeliest token after these new ones, and the cache that holds them."""
    new = torch.tensor([ids], device=bridge.device)
    output = bridge(input_ids=new, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return int(output.logits[0, -1].argmax()), output.past_key_values
