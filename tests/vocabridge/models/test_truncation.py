"""A model cut to its first layers has the hidden states of the full model after them, and no weights or caches more."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    Gemma3nTextConfig,
    GPT2Config,
    PreTrainedModel,
    SmolLM3Config,
)

from vocabridge.alignment import VocabridgeError
from vocabridge.models.transformers_version import CACHE
from vocabridge.models.truncation import keep_layers

SHAPE = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
    "pad_token_id": 1,
    "eos_token_id": [1, 2, 3, 4, 5],  # as long as the list of layers, and not about layers
}
WINDOW = {"sliding_window": 4}
TYPES = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
IDS = torch.arange(24).view(2, 12) * 7 % 90


def config(kind: str):
    if kind == "smollm3":
        return SmolLM3Config(no_rope_layers=[1, 0, 1, 1, 0], **SHAPE)
    if kind in ("gemma3_text", "gemma2"):
        return AutoConfig.for_model(kind, layer_types=TYPES, query_pre_attn_scalar=8, **WINDOW, **SHAPE)
    return AutoConfig.for_model(kind, **SHAPE)


@pytest.fixture(params=["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "smollm3"])
def model(request) -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(config(request.param)).eval()


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
@torch.no_grad()
def test_a_cut_model_has_the_full_models_hidden_states_after_so_many_layers(model, layers):
    cut = copy.deepcopy(model)
    keep_layers(cut, layers)
    states = model(IDS, output_hidden_states=True).hidden_states
    expected = states[5] if layers == 5 else model.base_model.norm(states[layers])  # the last one is normed already
    assert torch.equal(cut.base_model(IDS).last_hidden_state, expected)
    assert torch.equal(cut(IDS).logits, _logits(model, expected))
    assert len(cut.config.eos_token_id) == 5


def _logits(model, hidden):
    logits, cap = model.get_output_embeddings()(hidden), getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


@pytest.mark.parametrize("layers", [1, 3])
@torch.no_grad()
def test_the_caches_of_a_cut_model_have_so_many_layers_and_change_nothing(model, layers):
    keep_layers(model, layers)
    plain, cache = DynamicCache(), DynamicCache(config=model.config)
    assert len(cache.layers) == layers
    for past in (plain, cache):
        steps = [model(IDS[:, part], **{CACHE: past}, use_cache=True).logits for part in (slice(7), slice(7, 12))]
        torch.testing.assert_close(torch.cat(steps, 1), model(IDS).logits, atol=1e-4, rtol=1e-4)
        assert len(past.layers) == layers


def test_the_configuration_of_a_cut_model_makes_the_same_model(model, tmp_path):
    keep_layers(model, 3)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("layers", [0, -1, 6])
def test_an_impossible_number_of_layers_is_refused_and_nothing_changes(model, layers):
    model.name_or_path = "small"
    with pytest.raises(VocabridgeError, match=f"small has 5 layers, so its first {layers} cannot be used; use 1 to 5"):
        keep_layers(model, layers)
    assert len(model.base_model.layers) == model.config.num_hidden_layers == 5


def test_an_architecture_without_a_list_of_layers_is_refused():
    model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=2))
    model.name_or_path = "other"
    with pytest.raises(VocabridgeError, match=r"other \(gpt2\) has no list of layers that could be cut"):
        keep_layers(model, 1)


def test_an_architecture_with_weights_for_each_layer_elsewhere_is_refused():
    shape = {**SHAPE, "intermediate_size": [48] * 5, "layer_types": TYPES, "activation_sparsity_pattern": [0.0] * 5}
    per_layer = {"vocab_size_per_layer_input": 90, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0}
    model = AutoModelForCausalLM.from_config(Gemma3nTextConfig(laurel_rank=4, **shape, **per_layer))
    with pytest.raises(VocabridgeError, match="has weights outside its layers that depend on their number"):
        keep_layers(model, 2)
