"""Streamed text equals the text of greedy generation, in whole characters."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge import Bridge
from vocabridge.combination import Carry, Combination
from vocabridge.projection import Projection
from vocabridge.streaming import stream

PROMPTS = ["The quick brown fox", "Question: 24*7=", "🙂 東京", ""]


def generated(bridge, prompt, tokens):
    ids = torch.tensor([[0, *bridge.vocabulary.encode(prompt).ids.tolist()]])
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=1, pad_token_id=1)
    output = bridge.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    new = [bridge.vocabulary.token_bytes[i] or b"" for i in output[0, ids.shape[1] :].tolist() if i != 1]
    return b"".join(new).decode(errors="replace")


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_it_is_the_text_of_greedy_generation(parts, prompt, strength):
    bridge = parts.bridge(strength=strength)
    pieces = list(stream(bridge, prompt, 24))
    assert "".join(pieces) == generated(bridge, prompt, 24)
    assert all(pieces)


def forced(parts, tokens):
    """A bridge whose base says these tokens, whatever it reads."""
    bridge, steps = parts.bridge(strength=0.0), iter(tokens)

    def say(module, args, output):
        output.logits = torch.nn.functional.one_hot(torch.tensor([[next(steps)]]), bridge.vocabulary.size).float()
        return output

    return bridge, bridge.base.register_forward_hook(say)


def byte_tokens(parts, data):
    return [parts.base.vocabulary.tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in data]


@pytest.mark.parametrize(
    ("data", "pieces"),
    [("a🙂é".encode(), ["a", "🙂", "é"]), (b"\xf0\x9f", ["\ufffd"]), (b"\xf0\x9fx", ["\ufffdx"]), (b"", [])],
)
def test_characters_appear_whole(parts, data, pieces):
    bridge, hook = forced(parts, byte_tokens(parts, data))
    try:
        assert list(stream(bridge, "x", len(data))) == pieces
    finally:
        hook.remove()


def test_it_stops_at_the_end_token_of_the_tokenizer_or_the_model(parts, monkeypatch):
    for end in (1, 300):
        monkeypatch.setattr(parts.base.model.generation_config, "eos_token_id", [300, 301])
        bridge, hook = forced(parts, [*byte_tokens(parts, b"ab"), end, *byte_tokens(parts, b"c")])
        try:
            assert list(stream(bridge, "x", 10)) == ["a", "b"]
        finally:
            hook.remove()


def test_nothing_to_start_from_is_refused(parts):
    small = parts.small
    bridge = Bridge(small, parts.pair, Projection.identity(small.vocabulary.size), Combination(Carry.LINEAR))
    with pytest.raises(VocabridgeError, match="the prompt is empty"):
        next(stream(bridge, "", 3))


def test_gradients_are_as_they_were_between_pieces(parts):
    for _ in stream(parts.bridge(), "The", 3):
        assert torch.is_grad_enabled()
