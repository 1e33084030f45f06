"""Generation, evaluation and training use the same end tokens."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from vocabridge.byte_level.byte_bridge import ByteLevelBridge
from vocabridge.byte_level.streaming import ByteLevelStream
from vocabridge.evaluation.answers import Extractor
from vocabridge.evaluation.scoring import evaluated_model
from vocabridge.models.end_tokens import end_tokens
from vocabridge.training.dataset import load_training_texts

CONFIGURED = (300, 301)
"""The end tokens of the generation configuration; that of the tokenizer is 1."""


@pytest.fixture
def configured(parts, monkeypatch):
    """Return the tiny models, with a base whose generation configuration names end tokens of its own."""
    monkeypatch.setattr(parts.base.model.generation_config, "eos_token_id", [*CONFIGURED])
    return parts


def predicting(model, tokens):
    """Make a model predict these tokens, one after the other, whatever it reads; return the hook's handle."""
    steps = iter(tokens)

    def predict(module, args, output):
        logits = torch.nn.functional.one_hot(torch.tensor([[next(steps)]]), output.logits.shape[-1]).float()
        output.logits = logits.expand(output.logits.shape[0], 1, -1)
        return output

    return model.register_forward_hook(predict)


def spelled(vocabulary, text):
    return [vocabulary.tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in text.encode()]


def test_the_end_tokens_are_the_tokenizers_and_all_of_the_generation_configuration(configured, chatty):
    assert end_tokens(configured.base.vocabulary, configured.base.model) == (1, 300, 301)
    assert end_tokens(configured.base.vocabulary) == (1,)
    assert end_tokens(replace(configured.base.vocabulary, roles={}), configured.base.model) == (300, 301)
    assert end_tokens(configured.small.vocabulary, configured.small.model) == (1,)
    turn_end = chatty.small.vocabulary.roles["turn end"]
    assert end_tokens(chatty.small.vocabulary, chat=True) == (1, turn_end)
    assert end_tokens(chatty.small.vocabulary) == (1,)


@pytest.mark.parametrize("end", [1, *CONFIGURED])
def test_an_evaluation_stops_at_every_end_token(configured, end):
    model, vocabulary = configured.base.model, configured.base.vocabulary
    hook = predicting(model, [*spelled(vocabulary, "ab"), end, *spelled(vocabulary, "cdefgh")])
    try:
        contender = evaluated_model("base", model, vocabulary)
        assert contender.generate(["x"], 6, Extractor()) == [{"text": "ab", "tokens": 2}]
    finally:
        hook.remove()


def test_without_an_extractor_an_evaluation_writes_exactly_the_given_number_of_tokens(parts):
    model, vocabulary = parts.base.model, parts.base.vocabulary
    hook = predicting(model, [1] * 6)
    try:
        assert evaluated_model("base", model, vocabulary).generate(["x"], 6, None)[0]["tokens"] == 6
    finally:
        hook.remove()


@pytest.mark.parametrize("end", [1, *CONFIGURED])
def test_generate_of_a_bridge_stops_at_every_end_token(configured, end):
    bridge = configured.bridge(strength=0.0)
    ids = torch.tensor([bridge.vocabulary.encode("x").ids.tolist()])
    new = [*spelled(bridge.vocabulary, "ab"), end]
    hook = predicting(bridge.base, new + spelled(bridge.vocabulary, "cdefgh"))
    try:
        output = bridge.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
        assert output[0, ids.shape[1] :].tolist() == new
    finally:
        hook.remove()
    assert configured.base.model.generation_config.eos_token_id == [*CONFIGURED]  # the base stays as it is


def test_an_exact_bridge_stops_at_every_end_token(configured):
    writing = ByteLevelStream(ByteLevelBridge(configured.base, []), "x", 4, (), 0.0, 1.0)
    assert set(writing._end_ids) == {1, *CONFIGURED}


def test_a_training_text_ends_with_one_token_at_which_generation_stops(configured, tmp_path):
    path = tmp_path / "data.jsonl"
    model, vocabulary = configured.base.model, configured.base.vocabulary

    def ids(text, vocabulary):
        path.write_text(json.dumps({"text": text}))
        return load_training_texts(path, vocabulary, max_length=50, model=model)[0].ids

    assert ids("a fox", vocabulary)[-1] == 1
    assert ids("a fox", replace(vocabulary, roles={"bos": 0}))[-1] == 300  # a tokenizer without an end token
    plain = vocabulary.encode("a fox").ids.tolist()
    model.generation_config.eos_token_id = [plain[-1]]  # as if the text ended with one that only the model names
    assert ids("a fox", vocabulary)[-len(plain) :] == plain
