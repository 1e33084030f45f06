"""Streamed text equals the text of generation with the same settings, in whole characters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.chat import chat_prompt
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.steering import Steering
from vocabridge.bridge.streaming import stream
from vocabridge.decoding.stop_strings import decode_until_stop, find_stop
from vocabridge.models.loading import LoadedModel
from vocabridge.projection.combination import Combination
from vocabridge.projection.projection import Projection

PROMPTS = ["The quick brown fox", "Question: 24*7=", "🙂 東京", ""]
MESSAGES = [{"role": "user", "content": "The quick 🙂"}]


def text_of(bridge, ids):
    return b"".join(bridge.vocabulary.token_bytes[i] or b"" for i in ids if i != 1).decode(errors="replace")


def generated(bridge, prompt, tokens, **settings):
    ids = torch.tensor([[0, *bridge.vocabulary.encode(prompt).ids.tolist()]])
    given = {"do_sample": False, "eos_token_id": 1, "pad_token_id": 1} | settings
    config = GenerationConfig(max_new_tokens=tokens, **given)
    output = bridge.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return text_of(bridge, output[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_the_text_is_that_of_greedy_generation(parts, prompt, strength):
    bridge = parts.bridge(strength=strength)
    pieces = list(stream(bridge, prompt, max_new_tokens=24))
    assert "".join(pieces) == generated(bridge, prompt, 24)
    assert all(pieces)


@pytest.mark.parametrize("seed", range(3))
def test_sampling_draws_what_generation_draws(parts, seed):
    bridge = parts.bridge(strength=0.5)
    torch.manual_seed(seed)
    text = "".join(stream(bridge, PROMPTS[0], max_new_tokens=24, temperature=1.5, top_p=0.8))
    torch.manual_seed(seed)
    assert text == generated(bridge, PROMPTS[0], 24, do_sample=True, temperature=1.5, top_p=0.8, top_k=0)
    assert text != generated(bridge, PROMPTS[0], 24)


def test_with_beams_the_text_is_that_of_beam_search_and_comes_at_its_end(parts):
    bridge = parts.bridge(strength=0.7)
    pieces = stream(bridge, PROMPTS[0], max_new_tokens=12, beams=3)
    assert pieces.tokens == 0
    first = next(pieces)
    assert pieces.changed_rate is not None
    assert first + "".join(pieces) == generated(bridge, PROMPTS[0], 12, num_beams=3)
    assert 0 < pieces.tokens <= 12


def test_the_bases_own_settings_for_drawing_do_not_count(parts, monkeypatch, caplog):
    bridge = parts.bridge()
    expected = generated(bridge, PROMPTS[0], 12)
    for name, value in {"do_sample": True, "temperature": 3.0, "top_k": 1, "top_p": 0.5}.items():
        monkeypatch.setattr(bridge.generation_config, name, value)
    assert "".join(stream(bridge, PROMPTS[0], max_new_tokens=12)) == expected
    drawn = {"".join(stream(bridge, PROMPTS[0], max_new_tokens=12, temperature=3.0)) for _ in range(3)}
    assert len(drawn) == 3
    assert not caplog.records


def forced(parts, tokens):
    """Return a bridge whose base writes these tokens, whatever it reads."""
    bridge, steps = parts.bridge(strength=0.0), iter(tokens)

    def say(module, args, output):
        output.logits = torch.nn.functional.one_hot(torch.tensor([[next(steps)]]), bridge.vocabulary.size).float()
        return output

    return bridge, bridge.base.register_forward_hook(say)


def byte_tokens(parts, data):
    return [parts.base.vocabulary.tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in data]


@pytest.mark.parametrize(
    ("data", "pieces"),
    [("a🙂é".encode(), ["a", "🙂", "é"]), (b"\xf0\x9f", ["\ufffd"]), (b"\xf0\x9fx", ["\ufffdx"])],
)
def test_characters_appear_whole(parts, data, pieces):
    bridge, hook = forced(parts, byte_tokens(parts, data))
    try:
        assert list(stream(bridge, "x", max_new_tokens=len(data))) == pieces
    finally:
        hook.remove()


def test_it_stops_at_the_end_token_of_the_tokenizer_or_the_model(parts, monkeypatch):
    for end in (1, 300):
        monkeypatch.setattr(parts.base.model.generation_config, "eos_token_id", [300, 301])
        bridge, hook = forced(parts, [*byte_tokens(parts, b"ab"), end, *byte_tokens(parts, b"c")])
        try:
            written = stream(bridge, "x", max_new_tokens=10)
            assert list(written) == ["a", "b"]
            assert written.tokens == 3
        finally:
            hook.remove()


@pytest.mark.parametrize(
    ("data", "stop", "pieces", "tokens"),
    [
        ("ab##c###d", "###", ["a", "b", "##c"], 8),
        ("ab##", ["###"], ["a", "b", "##"], 4),
        ("naïve🙂x", ["🙁", "🙂"], ["n", "a", "ï", "v", "e"], 10),
        ("###", ["#"], [], 1),
    ],
)
def test_what_may_become_a_stop_string_is_held_back_and_a_stop_string_ends_it(parts, data, stop, pieces, tokens):
    bridge, hook = forced(parts, byte_tokens(parts, data.encode()))
    try:
        written = stream(bridge, "x", max_new_tokens=len(data.encode()), stop=stop)
        assert list(written) == pieces
        assert written.tokens == tokens
    finally:
        hook.remove()


@given(
    data=st.text("ab🙂é", max_size=10).map(str.encode) | st.binary(max_size=6),
    stops=st.lists(st.text("ab🙂é", min_size=1, max_size=3), max_size=2),
    sizes=st.lists(st.integers(0, 3), max_size=20),
)
def test_however_a_text_is_cut_into_tokens_the_pieces_are_its_text_up_to_the_stop_string(data, stops, sizes):
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    pieces.append(data[at:])
    stops = [stop.encode() for stop in stops]
    decoded = list(decode_until_stop(pieces, stops))
    assert all(decoded)
    assert "".join(decoded) == data[: find_stop(data, stops)].decode(errors="replace")


@pytest.mark.parametrize("beams", [1, 2])
def test_a_stop_string_ends_generation_with_any_number_of_beams(parts, beams):
    bridge, stop = parts.bridge(), "etaoinshrdlu .,0123456789qxTQ"
    written = stream(bridge, PROMPTS[0], max_new_tokens=24, beams=beams, stop=list(stop))
    assert not set("".join(written)) & set(stop)
    assert 0 < written.tokens < 24


def chatting(parts):
    """Return a bridge whose models have a chat template, with the control tokens that they have."""
    template = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    small, large = (replace(model.vocabulary, template=template) for model in (parts.small, parts.base))
    source = parts.pair
    source.vocabulary = small
    steering = Steering.over(large, source, parts.alignment, Combination())
    return Bridge(LoadedModel("base", "", parts.base.model, large), [steering])


def test_a_conversation_is_answered_in_the_models_own_templates(parts):
    bridge = chatting(parts)
    config = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=1, pad_token_id=1)
    prompt = chat_prompt(bridge, MESSAGES)
    output = bridge.generate(**prompt, generation_config=config)[0, prompt["input_ids"].shape[1] :]
    for beams in (1, 2):
        text = "".join(stream(bridge, MESSAGES, max_new_tokens=12, beams=beams))
        assert (text == text_of(bridge, output.tolist())) or beams > 1
        assert text


def test_a_conversation_ends_with_the_turn_and_a_text_does_not(parts):
    bridge = chatting(parts)
    bridge.vocabulary = replace(bridge.vocabulary, roles={**bridge.vocabulary.roles, "turn end": 300})
    bridge.steerings[0].strength = 0.0
    piece = bridge.vocabulary.token_bytes[300].decode()

    def say(module, args, output):
        output.logits = torch.nn.functional.one_hot(torch.tensor([[300]]), bridge.vocabulary.size).float()
        return output

    hook = bridge.base.register_forward_hook(say)
    try:
        assert list(stream(bridge, MESSAGES, max_new_tokens=3)) == []
        assert "".join(stream(bridge, "x", max_new_tokens=3)) == 3 * piece
    finally:
        hook.remove()


def test_a_stream_counts_its_tokens_and_the_rate_of_changes(parts):
    bridge = parts.bridge(strength=0.5)
    written = stream(bridge, PROMPTS[0], max_new_tokens=8)
    assert (written.tokens, written.changed_rate) == (0, None)
    next(written)
    assert 0 < written.tokens < 8
    list(written)
    ids = torch.tensor([[0, *bridge.vocabulary.encode(PROMPTS[0]).ids.tolist()]])
    config = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=1, return_dict_in_generate=True)
    output = bridge.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    assert written.tokens == output.sequences.shape[1] - ids.shape[1]
    assert written.changed_rate == output.past_key_values.changed_rate.item()
    inactive = stream(parts.bridge(strength=0.0), PROMPTS[0], max_new_tokens=3)
    list(inactive)
    assert inactive.changed_rate is None


def test_every_token_is_one_forward_of_one_token(parts):
    bridge, widths = parts.bridge(strength=0.0), []
    hook = bridge.base.register_forward_hook(
        lambda module, args, kwargs, output: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        written = stream(bridge, PROMPTS[0], max_new_tokens=6)
        list(written)
    finally:
        hook.remove()
    assert widths == [1 + len(bridge.vocabulary.encode(PROMPTS[0]).ids), *[1] * (written.tokens - 1)]


def test_an_interrupted_text_leaves_nothing_behind(parts):
    bridge = parts.bridge()
    expected = list(stream(bridge, PROMPTS[0], max_new_tokens=12))
    left = stream(bridge, PROMPTS[1], max_new_tokens=12)
    next(left)
    assert list(stream(bridge, PROMPTS[0], max_new_tokens=12)) == expected
    for model in (bridge.base, bridge.steering.source.models["tuned"]):
        broken = stream(bridge, PROMPTS[0], max_new_tokens=12)
        next(broken)

        def interrupt(*_):
            raise KeyboardInterrupt

        hook = model.register_forward_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(broken)
        hook.remove()
        assert list(stream(bridge, PROMPTS[0], max_new_tokens=12)) == expected
        assert torch.is_grad_enabled()


def test_nothing_to_start_from_is_refused(parts):
    small = parts.small
    own = Steering(parts.pair, small.vocabulary, Projection.identity(small.vocabulary.size))
    with pytest.raises(VocabridgeError, match="the prompt is empty"):
        stream(Bridge(small, [own]), "", max_new_tokens=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "cannot write 0 tokens"),
        ({"beams": 0}, "with 0 beams"),
        ({"temperature": -1.0}, "temperature -1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_p": 0.0}, r"top-p 0\.0"),
        ({"top_p": 1.5}, r"top-p 1\.5"),
        ({"stop": ["a", ""]}, "a stop string is empty"),
    ],
)
def test_settings_out_of_their_range_are_refused(parts, settings, message):
    with pytest.raises(VocabridgeError, match=message):
        stream(parts.bridge(), "x", **{"max_new_tokens": 3} | settings)


def test_gradients_are_as_they_were_between_pieces(parts):
    for _ in stream(parts.bridge(), "The", max_new_tokens=3):
        assert torch.is_grad_enabled()
