"""A PEFT adapter is loaded as the model that it adapts, with its weights merged; it can be half of an expert pair."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.build import build_steering
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.saving import load, save_bridge
from vocabridge.evaluation import description
from vocabridge.models.loading import load_model, resolve_vocabulary
from vocabridge.models.value_network import (
    load_value_network,
    load_value_source,
    new_value_network,
    save_value_network,
)

# peft uses a name that transformers has deprecated, and warns about tied weights.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
]
F32 = torch.float32
IDS = torch.tensor([[5, 300, 301, 17, 260]])


def make_adapter(base, folder, targets=("q_proj", "down_proj")):
    """Save an adapter of a folder's model with PEFT, and return the logits of the adapted model at `IDS`."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=F32), LoraConfig(r=2, target_modules=list(targets))
    )
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    with torch.no_grad():
        return model.eval()(IDS).logits


def logits_of(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture
def adapter(own):
    """Return the folder of an adapter of `source`, which holds only the adapter's files."""
    make_adapter(own / "source", own / "adapter")
    for path in (own / "adapter").iterdir():
        if not path.name.startswith("adapter_"):
            path.unlink()
    return own / "adapter"


@pytest.fixture
def bridge(own, parts, adapter):
    parts.alignment.save(own / "pair.safetensors")
    base = load_model(str(own / "target"), dtype=F32)
    steering = build_steering(
        base.vocabulary,
        str(adapter),
        untuned=str(own / "source"),
        alignment=own / "pair.safetensors",
        dtype=F32,
    )
    return Bridge(base, [steering])


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def error_of(load, *arguments, **options):
    with pytest.raises(VocabridgeError) as error:
        load(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("family", ["source", "target"])
@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], ["embed_tokens", "v_proj"], ["lm_head"]])
def test_a_merged_adapter_has_the_logits_of_peft(own, family, targets):
    """Try tied weights, too, where the adapter changes only one of the embedding and the head."""
    expected = make_adapter(own / family, own / "adapter", targets)
    loaded = load_model(str(own / "adapter"), dtype=F32)
    plain = load_model(str(own / family), dtype=F32)
    torch.testing.assert_close(logits_of(loaded.model), expected, atol=2e-4, rtol=1e-4)
    assert (logits_of(loaded.model) - logits_of(plain.model)).abs().max() > 0.1
    assert [name for name, _ in loaded.model.named_modules()] == [name for name, _ in plain.model.named_modules()]
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.vocabulary.fingerprint == plain.vocabulary.fingerprint
    assert loaded.vocabulary.size == plain.vocabulary.size
    assert loaded.name == loaded.model.name_or_path == str(own / "adapter")


def test_an_adapter_without_a_tokenizer_has_that_of_the_model_that_it_adapts(own, adapter):
    base = resolve_vocabulary(str(own / "source"))
    assert resolve_vocabulary(str(adapter)).fingerprint == base.fingerprint
    shutil.copy(own / "source" / "tokenizer.json", adapter)
    again = resolve_vocabulary(str(adapter))
    assert (again.token_bytes, again.size) == (base.token_bytes, base.size)


def test_an_adapter_is_the_tuned_half_of_an_expert_pair_and_comes_back_from_a_bridge(bridge, own, adapter):
    assert bridge.steering.source.name == f"{adapter} - {own / 'source'}"
    save_bridge(bridge, own / "bridge")
    tuned = json.loads((own / "bridge" / "bridge.json").read_text())["steerings"][0]["source"]["tuned"]
    assert tuned["name"] == "../adapter"
    assert tuned["configs"].keys() == {"adapter_config.json"}
    assert tuned["adapts"]["name"] == "../source"
    assert tuned["adapts"]["digest"] is not None
    assert tuned["adapts"]["configs"].keys() > {"config.json", "generation_config.json", "tokenizer_config.json"}
    again = load(own / "bridge", dtype=F32)
    assert torch.equal(logits_of(again), logits_of(bridge))
    assert not torch.equal(logits_of(again), logits_of(again.base))


def flip_weights(folder, file):
    data = bytearray((folder / file).read_bytes())
    data[-6] ^= 1
    (folder / file).write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: flip_weights(own / "adapter", "adapter_model.safetensors"), "{adapter} has other weights now"),
        (lambda own: flip_weights(own / "source", "model.safetensors"), "{source} has other weights now"),
        (
            lambda own: edit(own / "adapter" / "adapter_config.json", lora_alpha=99),
            "{adapter} has another adapter_config.json now",
        ),
        (lambda own: edit(own / "source" / "config.json", rms_norm_eps=0.1), "{source} has another config.json now"),
        (lambda own: shutil.rmtree(own / "adapter"), "{adapter} is not there any more"),
    ],
)
def test_a_changed_adapter_or_adapted_model_is_named(bridge, own, adapter, change, message):
    save_bridge(bridge, own / "bridge")
    change(own)
    error = error_of(load, own / "bridge", dtype=F32)
    assert message.format(adapter=adapter, source=own / "source") in error


def test_the_model_that_an_adapter_adapts_may_be_moved_if_bridge_json_names_the_new_place(bridge, own):
    save_bridge(bridge, own / "bridge")
    (own / "source").rename(own / "elsewhere")
    assert "source is not there any more" in error_of(load, own / "bridge", dtype=F32)
    document = json.loads((own / "bridge" / "bridge.json").read_text())
    source = document["steerings"][0]["source"]
    source["tuned"]["adapts"]["name"] = source["untuned"]["name"] = str(own / "elsewhere")
    (own / "bridge" / "bridge.json").write_text(json.dumps(document))
    assert torch.equal(logits_of(load(own / "bridge", dtype=F32)), logits_of(bridge))


def renamed(tensors):
    return {name.replace("layers.0", "layers.7"): tensor for name, tensor in tensors.items()}


def cut(tensors):
    return {name: tensor[:, :1] if "lora_B" in name else tensor[:1] for name, tensor in tensors.items()}


def spoiled(tensors):
    next(iter(tensors.values()))[0, 0] = float("nan")
    return tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, "it has unknown base_model.model.model.layers.7.mlp.down_proj.lora_A.weight"),
        (renamed, "it lacks base_model.model.model.layers.0.mlp.down_proj.lora_A.default.weight"),
        (lambda tensors: {f"x.{name}": tensor for name, tensor in tensors.items()}, "it has unknown x.base_model"),
        (lambda tensors: dict(list(tensors.items())[2:]), "it lacks base_model"),
        (cut, "cannot be merged into"),
        (spoiled, "NaN or infinite"),
    ],
)
def test_an_adapter_whose_weights_do_not_fit_is_refused(adapter, change, message):
    path = adapter / "adapter_model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}, path)
    error = error_of(load_model, str(adapter))
    assert str(adapter) in error
    assert message in error


def test_an_adapter_of_another_model_is_refused(own, adapter):
    config = LlamaConfig.from_pretrained(own / "source", intermediate_size=64)
    LlamaForCausalLM(config).save_pretrained(own / "wider")
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(own / "wider"))
    assert f"the adapter {adapter} cannot be merged into {own / 'wider'} (" in error_of(load_model, str(adapter))


def test_a_problem_with_an_adapters_folder_is_named(own, adapter):
    config = adapter / "adapter_config.json"
    text = config.read_text()
    for content, message in [
        (text[:-9], f"{config} is damaged"),
        ("{}", f"{config} does not name the model that the adapter adapts"),
        (
            text.replace(str(own / "source"), str(own / "gone")),
            f"the adapter {adapter} needs the model that it adapts: {own / 'gone'}: no such file or folder",
        ),
        (text.replace(str(own / "source"), str(adapter)), f"{adapter} is an adapter itself"),
    ]:
        config.write_text(content)
        assert message in error_of(load_model, str(adapter))
    config.write_text(text)
    (adapter / "adapter_model.safetensors").rename(adapter / "mine.safetensors")
    assert "holds none of adapter_model.safetensors" in error_of(load_model, str(adapter))
    shutil.copy(own / "source" / "model.safetensors", adapter)
    assert f"{adapter} holds a model and an adapter" in error_of(load_model, str(adapter))


def test_an_adapter_of_a_type_that_cannot_be_merged_is_refused(own):
    model = AutoModelForCausalLM.from_pretrained(own / "source")
    prompts = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    prompts.save_pretrained(own / "prompts")
    assert "is an adapter of type PROMPT_TUNING" in error_of(load_model, str(own / "prompts"))


def test_an_error_names_the_package_to_install_if_peft_is_missing(adapter, monkeypatch):
    monkeypatch.setattr("vocabridge.models.adapters.importlib.util.find_spec", lambda name: None)
    assert "needs peft; run: pip install 'vocabridge[train]'" in error_of(load_model, str(adapter))


def test_an_adapter_without_the_untuned_model_is_refused_as_a_value_source(adapter):
    assert f"{adapter} is a PEFT adapter, which is the tuned half of an expert pair" in error_of(
        load_value_source, str(adapter)
    )


def test_pickled_adapters_can_be_read_and_referred_to(own, adapter):
    expected = logits_of(load_model(str(adapter), dtype=F32).model)
    before = description._model(str(adapter))
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    assert torch.equal(logits_of(load_model(str(adapter), dtype=F32).model), expected)
    assert description._model(str(adapter)) != before
    then = description._model(str(adapter))
    flip_weights(own / "source", "model.safetensors")
    assert description._model(str(adapter)) != then


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_value_network_may_be_trained_on_an_adapter(adapter, own, method):
    network = new_value_network(str(adapter), method=method, rank=2)
    torch.nn.init.normal_(network.value.projection.weight, std=0.3)
    save_value_network(network, own / "values", {})
    again = load_value_network(own / "values")
    assert torch.equal(logits_of(again.source_model), logits_of(network.source_model))
    assert torch.equal(again.source_model.lm_head.weight, again.value.model.lm_head.weight)


HUB = """
import sys, torch, vocabridge
base = vocabridge.load_model("target", dtype=torch.float32)
steering = vocabridge.build_steering(base.vocabulary, "someone/adapter", untuned="source", alignment=sys.argv[1])
vocabridge.save_bridge(vocabridge.Bridge(base, [steering]), "bridge")
"""
AGAIN = """
import torch, vocabridge
tuned = vocabridge.load("bridge", dtype=torch.float32).steering.source.tuned
print(float(tuned.model.layers[0].self_attn.q_proj.weight.double().sum()))
"""


@pytest.mark.quick(0)
def test_a_bridge_pins_the_commits_of_a_hub_adapter_and_of_the_model_that_it_adapts(own, parts, adapter):
    """Load the bridge from a handmade cache of the hub, offline, in which both models have newer commits."""
    edit(adapter / "adapter_config.json", base_model_name_or_path="someone/base")
    repositories = {"adapter": adapter, "base": own / "source"}
    for name, folder in repositories.items():
        repository = own / "hub" / f"models--someone--{name}"
        shutil.copytree(folder, repository / "snapshots" / ("a" * 40))
        shutil.copytree(own / "tuned" if name == "base" else folder, repository / "snapshots" / ("b" * 40))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("a" * 40)
    flip_weights(own / "hub" / "models--someone--adapter" / "snapshots" / ("b" * 40), "adapter_model.safetensors")
    parts.alignment.save(own / "pair.safetensors")
    environment = os.environ | {"HF_HUB_CACHE": str(own / "hub"), "HF_HUB_OFFLINE": "1"}

    def run(*command):
        done = subprocess.run(
            [sys.executable, "-c", *command], cwd=own, env=environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(HUB, str(own / "pair.safetensors"))
    tuned = json.loads((own / "bridge" / "bridge.json").read_text())["steerings"][0]["source"]["tuned"]
    assert (tuned["name"], tuned["revision"]) == ("someone/adapter", "a" * 40)
    assert (tuned["adapts"]["name"], tuned["adapts"]["revision"]) == ("someone/base", "a" * 40)
    before = run(AGAIN)
    for name in repositories:
        (own / "hub" / f"models--someone--{name}" / "refs" / "main").write_text("b" * 40)
    assert run(AGAIN) == before
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(own / "source"), adapter)
    weight = expected.merge_and_unload().model.layers[0].self_attn.q_proj.weight.double().sum()
    assert float(before) == pytest.approx(float(weight), abs=1e-4)
