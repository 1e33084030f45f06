"""Loading checks weights: those that are missing, unknown, of another shape, NaN or infinite are named."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from vocabridge.alignment import VocabridgeError, Vocabulary, align
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.streaming import stream
from vocabridge.models import gguf_conversion
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.loading import check_model, load_model, resolve_vocabulary
from vocabridge.models.loading_checks import check_logits
from vocabridge.models.value_network import load_value_network, new_value_network, save_value_network
from vocabridge.models.value_network_files import WEIGHTS

TUNING = {"tuned": "tuned", "untuned": "source"}


def rewrite(folder, change):
    """Change the tensors in a model's file."""
    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


def prefixed(prefix):
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def without(part):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def halved(tensors):
    return tensors | {"model.norm.weight": tensors["model.norm.weight"][:16]}


def refused(load, *arguments):
    with pytest.raises(VocabridgeError) as error:
        load(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (prefixed("_orig_mod."), "has unknown _orig_mod.lm_head.weight, _orig_mod.model.embed_tokens.weight"),
        (prefixed("base_model.model."), "lacks lm_head.weight, model.embed_tokens.weight"),
        (without("layers.1."), "it lacks model.layers.1.input_layernorm.weight"),
        (without("layers.1."), "and 6 more"),
        (lambda tensors: tensors | {"v_head.weight": torch.zeros(1)}, "it has unknown v_head.weight"),
        (halved, "it has of another shape model.norm.weight (16,), not (32,)"),
    ],
)
def test_a_folder_that_does_not_hold_the_weights_of_its_model_is_refused_and_the_keys_are_named(own, change, says):
    rewrite(own / "source", change)
    message = refused(load_model, str(own / "source"))
    assert str(own / "source") in message
    assert "LlamaForCausalLM" in message
    assert says in message


def test_keys_that_a_class_declares_ignorable_raise_no_error(own):
    assert "lm_head.weight" not in load_file(own / "target" / "model.safetensors")  # tied
    load_model(str(own / "target"))
    rewrite(own / "source", lambda tensors: tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    load_model(str(own / "source"))  # as checkpoints of old have it


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"])
def test_weights_that_are_not_finite_are_named(own, value, name):
    def spoil(tensors):
        tensors[name][3, 5] = value
        return tensors

    rewrite(own / "source", spoil)
    message = refused(load_model, str(own / "source"))
    assert f"has weights that are NaN or infinite as torch.bfloat16: {name};" in message


def test_finite_weights_whose_sum_is_infinite_raise_no_error(own):
    rewrite(
        own / "source", lambda tensors: tensors | {"lm_head.weight": torch.full_like(tensors["lm_head.weight"], 3e38)}
    )
    load_model(str(own / "source"), dtype=torch.float32)


def test_a_value_network_with_weights_that_are_not_finite_is_refused(own):
    for method in ("lora", "full"):
        network = new_value_network(str(own / "source"), method=method, rank=2)
        network.value.projection.weight.data[0, 0] = float("nan")
        save_value_network(network, own / method, {})
        message = refused(load_value_network, own / method)
        assert f"{own / method / WEIGHTS} has weights that are NaN or infinite" in message
        assert "projection.weight" in message


def test_a_generation_config_that_is_damaged_is_an_error(own):
    path = own / "source" / "generation_config.json"
    whole = path.read_text()
    for content in (whole[:-5], "[]", whole.replace('"eos_token_id": 1', '"eos_token_id": 1]')):
        path.write_text(content)
        assert f"{path} is damaged" in refused(load_model, str(own / "source"))
    path.unlink()
    assert load_model(str(own / "source")).model.generation_config.eos_token_id == 1


class Incomplete:
    """A stand-in for transformers that reads a GGUF file with a missing key, or with a weight that is not finite."""

    def __init__(self, **report):
        self.report = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()} | report

    def from_pretrained(self, *_arguments, **_more):
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=416, **shape))
        if not any(self.report.values()):
            model.model.norm.weight.data[0] = float("nan")
        return model, self.report


@pytest.mark.parametrize(
    ("report", "says"),
    [
        ({"missing_keys": {"model.norm.weight"}}, "it lacks model.norm.weight"),
        ({"unexpected_keys": {"blk.0.odd"}}, "it has unknown blk.0.odd"),
        ({}, "NaN or infinite as torch.bfloat16: model.norm.weight"),
    ],
)
def test_a_failed_gguf_conversion_is_not_kept(tmp_path, monkeypatch, report, says):
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(gguf_conversion, "AutoModelForCausalLM", Incomplete(**report))
    message = refused(load_model, str(file))
    assert re.search(re.escape(f"{file}") + r".*" + re.escape(says), message)
    kept = gguf_conversion.cache_folder() / "models"
    assert [path.name for path in kept.iterdir() if path.suffix != ".lock"] == []


def test_one_error_names_a_few_keys_of_many(own):
    config = json.loads((own / "source" / "config.json").read_text())
    (own / "source" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 6}))
    assert len(refused(load_model, str(own / "source"))) < 600


def test_output_embeddings_that_the_configuration_ties_to_others_are_refused(own):
    head = torch.randn(704, 32)
    rewrite(own / "target", lambda tensors: tensors | {"lm_head.weight": head})
    message = refused(load_model, str(own / "target"))
    assert "has output embeddings of its own, but tie_word_embeddings in its config.json says" in message
    config = json.loads((own / "target" / "config.json").read_text())
    (own / "target" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    model = load_model(str(own / "target"), dtype=torch.float32).model
    torch.testing.assert_close(model.get_output_embeddings().weight.detach(), head)


def test_output_embeddings_that_equal_the_input_embeddings_are_tied(own):
    rewrite(own / "target", lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    model = load_model(str(own / "target")).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn])
def test_quantized_weights_without_a_scale_are_named(own, dtype):
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(own / "source", lambda tensors: tensors | {name: torch.ones_like(tensors[name]).to(dtype)})
    message = refused(load_model, str(own / "source"))
    assert f"without a quantization_config that says what they mean: {name}; save them as floats" in message


def test_integers_that_are_no_weights_raise_no_error(own):
    positions = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.arange(4)}
    rewrite(own / "source", lambda tensors: tensors | positions)
    load_model(str(own / "source"))


def overflowing(tensors):
    """Weights that float16 holds, and whose activations it does not."""
    return {name: tensor * (3e4 if "gate_proj" in name or "up_proj" in name else 1) for name, tensor in tensors.items()}


@pytest.mark.parametrize("steers", ["base", "source", "value network"])
def test_a_model_whose_activations_overflow_is_named_before_anything_is_made_of_its_logits(own, steers):
    if steers == "base":
        rewrite(own / "target", overflowing)
    elif steers == "source":
        rewrite(own / "tuned", overflowing)
    pair = {role: load_model(str(own / name), dtype=torch.float16) for role, name in TUNING.items()}
    base, source = load_model(str(own / "target"), dtype=torch.float16), ExpertPair(pair["tuned"], pair["untuned"])
    if steers == "value network":
        source = new_value_network(str(own / "source"), method="full", rank=1)
        source.value.projection.weight.data.fill_(3e38)
    bridge = Bridge.over(base, source, align(source.vocabulary, base.vocabulary))
    message = refused(lambda: list(stream(bridge, "The quick", max_new_tokens=2)))
    name = {"base": "target", "source": "tuned", "value network": "source"}[steers]
    assert message.startswith(f"{own / name} computes logits that are NaN or infinite as torch.")


def test_logits_that_are_minus_infinity_at_some_tokens_raise_no_error(own):
    model = load_model(str(own / "source")).model
    check_logits(model, None, torch.tensor([[[0.0, -torch.inf]]]))
    with pytest.raises(VocabridgeError):
        check_logits(model, None, torch.tensor([[[0.0, torch.inf]]]))


@pytest.mark.parametrize(
    ("setting", "value"), [("sliding_window", None), ("sliding_window", -1), ("query_pre_attn_scalar", -1)]
)
def test_a_value_of_the_configuration_that_makes_the_forward_fail_is_named_when_the_model_is_loaded(
    own, setting, value
):
    path = own / "target" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
    message = refused(lambda: load_model(str(own / "target")))
    assert message.startswith(f"{own / 'target'} cannot compute a token as torch.bfloat16 on cpu (")
    assert f"correct its config.json, where {setting}: {json.dumps(value)} may be wrong" in message


@pytest.mark.parametrize("load", [load_model, check_model, resolve_vocabulary, load_value_network, Vocabulary.load])
def test_an_empty_name_is_refused_and_is_not_the_working_folder(load):
    assert re.fullmatch(
        "the name of the (model|tokenizer|value network) is empty; give one, .*", refused(lambda: load(""))
    )
