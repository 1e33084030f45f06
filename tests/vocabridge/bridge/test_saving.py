"""A bridge as a folder: it comes back as it was, is not mistaken for another one, and is there whole or not at all."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import vocabridge
from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.bridge.build import build_steering
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.saving import load, save_bridge
from vocabridge.bridge.steering import Steering
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.loading import load_model
from vocabridge.models.value_network import load_value_network, new_value_network, save_value_network
from vocabridge.options import BoundaryPolicy, Form, ProjectionMethod
from vocabridge.projection.combination import UNFITTED, Combination
from vocabridge.projection.config import BoundaryConfig
from vocabridge.projection.strength import Schedule

TEXT = "The quick brown fox counts 12 cafés and 3 dogs."
F32 = torch.float32


@pytest.fixture
def values(own):
    """Save a value network, an adapter with some change of logits, and return its folder."""
    network = new_value_network(str(own / "source"), method="lora", rank=2)
    torch.nn.init.normal_(network.value.projection.weight, std=0.3)
    save_value_network(network, own / "values", {"epochs": 1})
    return own / "values"


@pytest.fixture
def bridge(own, parts):
    """Return a bridge of a base and an expert pair, both from folders of the test's own."""
    parts.alignment.save(own / "pair.safetensors")
    base = load_model(str(own / "target"), dtype=F32)
    steering = build_steering(
        base.vocabulary,
        str(own / "tuned"),
        untuned=str(own / "source"),
        alignment=own / "pair.safetensors",
        dtype=F32,
    )
    return Bridge(base, [steering])


def logits(bridge, text=TEXT):
    ids = torch.tensor([[0, *bridge.vocabulary.encode(text).ids.tolist()]])
    with torch.no_grad():
        return bridge(input_ids=ids).logits


def written(folder):
    return json.loads((folder / "bridge.json").read_text())


def edit(folder, change):
    document = written(folder)
    change(document)
    (folder / "bridge.json").write_text(json.dumps(document))


def test_an_expert_pair_comes_back_bit_for_bit(bridge, own):
    save_bridge(bridge, own / "bridge")
    again = vocabridge.load(own / "bridge", dtype=F32)
    assert torch.equal(logits(again), logits(bridge))
    assert sorted(path.name for path in (own / "bridge").iterdir()) == ["alignment-1.safetensors", "bridge.json"]


def test_several_sources_come_back_with_all_that_was_set(bridge, own, values, parts):
    network = load_value_network(values, dtype=F32)
    mixture = Combination(ProjectionMethod.STATIC, 0.3, 0.7, 0.0, Form.MIXTURE)
    settings = {"policy": BoundaryPolicy.HEAL, "strength": Schedule(1.0, 0.25, 8)}
    second = Steering.over(bridge.vocabulary, network, parts.alignment, mixture, **settings)
    limits = SteeringLimits(plausibility_threshold=0.01)
    base = load_model(str(own / "target"), dtype=F32)
    both = Bridge(base, [bridge.steering, second], limits)
    save_bridge(both, own / "bridge")
    again = load(own / "bridge", dtype=F32)
    assert again.limits == limits
    assert [steering.combination for steering in again.steerings] == [UNFITTED, mixture]
    assert [steering.policy for steering in again.steerings] == [BoundaryPolicy.LOOKAHEAD, BoundaryPolicy.HEAL]
    assert [steering.strength for steering in again.steerings] == [1.0, Schedule(1.0, 0.25, 8)]
    assert torch.equal(logits(again), logits(both))
    assert again.steerings[1].source.config.training == {"epochs": 1}


def test_an_adapter_is_copied_so_its_folder_may_go_and_the_bridge_may_move(own, values, bridge, parts):
    network = load_value_network(values, dtype=F32)
    saved = Bridge(
        load_model(str(own / "target"), dtype=F32), [Steering.over(bridge.vocabulary, network, parts.alignment)]
    )
    save_bridge(saved, own / "bridge")
    copied = (own / "bridge" / "value-1" / "value_network.safetensors").read_bytes()
    assert copied == (values / "value_network.safetensors").read_bytes()
    shutil.rmtree(values)
    (own / "bridge").rename(own / "moved")
    again = load(own / "moved", dtype=F32)
    assert torch.equal(logits(again), logits(saved))
    save_bridge(again, own / "moved")  # over itself
    assert torch.equal(logits(load(own / "moved", dtype=F32)), logits(saved))


def test_a_value_network_of_all_weights_is_referred_to(own, bridge, parts):
    network = new_value_network(str(own / "source"), method="full", rank=1)
    with pytest.raises(VocabridgeError, match="save it with save_value_network"):
        save_bridge(_over(bridge, network, parts, own), own / "bridge")
    assert not (own / "bridge").exists()
    save_value_network(network, own / "values", {})
    save_bridge(_over(bridge, load_value_network(own / "values"), parts, own), own / "bridge")
    assert not (own / "bridge" / "value-1").exists()
    assert written(own / "bridge")["steerings"][0]["source"]["value_network"]["name"] == "../values"
    load(own / "bridge")
    shutil.rmtree(own / "values")
    with pytest.raises(VocabridgeError, match="values is not there any more"):
        load(own / "bridge")


def _over(bridge, network, parts, own):
    return Bridge(load_model(str(own / "target")), [Steering.over(bridge.vocabulary, network, parts.alignment)])


def test_a_model_inside_of_the_folder_moves_with_it(bridge, own):
    save_bridge(bridge, own / "bridge")
    shutil.move(own / "target", own / "bridge" / "base")
    edit(own / "bridge", lambda document: document["base"].update(name="./base"))
    expected = logits(bridge)
    (own / "bridge").rename(own / "moved")
    again = load(own / "moved", dtype=F32)
    assert torch.equal(logits(again), expected)
    save_bridge(again, own / "moved")
    assert written(own / "moved")["base"]["name"] == "./base"
    assert torch.equal(logits(load(own / "moved", dtype=F32)), expected)


def test_a_folder_with_a_bridge_and_its_models_may_be_moved(bridge, own, tmp_path_factory):
    save_bridge(bridge, own / "bridge")
    document = written(own / "bridge")
    assert document["base"]["name"] == "../target"
    assert document["steerings"][0]["source"]["tuned"]["name"] == "../tuned"
    moved = tmp_path_factory.mktemp("moved") / "all"
    shutil.move(own, moved)
    again = load(moved / "bridge", dtype=F32)
    assert torch.equal(logits(again), logits(bridge))
    assert again.base.name_or_path == str(moved / "target")
    (moved / "bridge").rename(moved.parent / "alone")
    with pytest.raises(VocabridgeError, match=r"bridge\.json: .*target is not there any more; put it back, or correct"):
        load(moved.parent / "alone")


def test_a_model_elsewhere_has_its_whole_path(bridge, own):
    (own / "deep").mkdir()
    save_bridge(bridge, own / "deep" / "bridge")
    assert written(own / "deep" / "bridge")["base"]["name"] == str(own / "target")
    load(own / "deep" / "bridge")


def test_a_strength_may_be_edited(bridge, own):
    save_bridge(bridge, own / "bridge")
    edit(own / "bridge", lambda document: document["steerings"][0].update(strength=0))
    inactive = load(own / "bridge", dtype=F32)
    ids = torch.tensor([[0, 300, 301]])
    with torch.no_grad():
        assert torch.equal(inactive(input_ids=ids).logits, inactive.base(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("dtypes", "places"),
    [
        ((F32, torch.bfloat16), {}),
        ((torch.bfloat16, F32), {"device": "cpu", "value_device": "cpu"}),
        ((F32, F32), {"device_map": {"": "cpu"}}),
    ],
)
def test_base_and_source_have_their_own_dtype_and_place(bridge, own, dtypes, places):
    save_bridge(bridge, own / "bridge")
    again = load(own / "bridge", dtype=dtypes[0], value_dtype=dtypes[1], **places)
    assert again.dtype == dtypes[0]
    assert {next(model.parameters()).dtype for model in again.steering.source.models.values()} == {dtypes[1]}
    ids = torch.tensor([[0, *again.vocabulary.encode(TEXT).ids.tolist()]])
    tokens = again.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    assert tokens.shape[1] > ids.shape[1]
    given, expected = logits(again), logits(bridge)
    if dtypes == (F32, F32):
        assert torch.equal(given, expected)
    else:  # as near as the narrower dtype lets it be, and nearer than the base alone
        alone = again.base(input_ids=ids).logits.float()
        assert _distance(given, expected) < 0.1 * _distance(alone, expected)


def _distance(logits, expected):
    """Return twice the mean total variation of two distributions."""
    return (logits.softmax(-1) - expected.softmax(-1)).abs().sum(-1).mean()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("places", [("cuda:0", "cpu"), ("cpu", "cuda:0"), ("cuda:0", "cuda:0")])
def test_base_and_source_may_be_on_different_devices(bridge, own, places):
    save_bridge(bridge, own / "bridge")
    again = load(own / "bridge", device=places[0], value_device=places[1], dtype=F32)
    ids = torch.tensor([[0, *again.vocabulary.encode(TEXT).ids.tolist()]], device=places[0])
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits.cpu(), logits(bridge), atol=1e-3, rtol=1e-3)


def test_a_device_that_is_not_there_and_two_places_at_once_are_refused(own):
    with pytest.raises(VocabridgeError, match="there is no device 'nowhere' here"):
        load_model(str(own / "target"), device="nowhere")
    with pytest.raises(VocabridgeError, match="not both"):
        load_model(str(own / "target"), device="cpu", device_map="auto")


def change_weights(folder):
    model = load_model(str(folder), dtype=F32).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    model.save_pretrained(folder)


def change_tokenizer(folder):
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["merges"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(document))


@pytest.mark.parametrize("name", ["target", "tuned", "source"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (change_weights, "{} has other weights now"),
        (change_tokenizer, "{} has another tokenizer now"),
        (shutil.rmtree, "{} is not there any more; put it back, or correct its name"),
    ],
)
def test_a_model_that_has_changed_is_named(bridge, own, name, change, says):
    save_bridge(bridge, own / "bridge")
    change(own / name)
    with pytest.raises(VocabridgeError) as error:
        load(own / "bridge", dtype=F32)
    assert says.format(own / name) in str(error.value)


def test_an_adapter_that_has_changed_is_named(bridge, own, values, parts):
    save_bridge(_over(bridge, load_value_network(values), parts, own), own / "bridge")
    weights = own / "bridge" / "value-1" / "value_network.safetensors"
    data = bytearray(weights.read_bytes())
    data[-7] ^= 1
    weights.write_bytes(data)
    with pytest.raises(VocabridgeError, match="value-1 has other weights now"):
        load(own / "bridge")


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_an_alignment_that_is_altered_cut_off_or_gone_is_named(bridge, own, damage):
    save_bridge(bridge, own / "bridge")
    alignment = own / "bridge" / "alignment-1.safetensors"
    alignment.write_bytes(damage(alignment.read_bytes()))
    with pytest.raises(VocabridgeError, match=r"alignment-1\.safetensors: altered or damaged"):
        load(own / "bridge", dtype=F32)
    alignment.unlink()
    with pytest.raises(VocabridgeError, match=r"alignment-1\.safetensors: no such file"):
        load(own / "bridge", dtype=F32)


def test_a_bridge_json_cut_off_anywhere_is_refused(bridge, own):
    save_bridge(bridge, own / "bridge")
    content = (own / "bridge" / "bridge.json").read_bytes().rstrip()
    for size in range(0, len(content), 97):
        (own / "bridge" / "bridge.json").write_bytes(content[:size])
        with pytest.raises(VocabridgeError, match=r"bridge\.json cannot be read .*; copy or make the bridge again"):
            load(own / "bridge")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(format=99), "of format 99"),
        (lambda d: d.update(format=5), "of format 5, and this version reads 6; make the bridge again"),
        (lambda d: d.pop("limits"), "a bridge has format, version, base, limits, steerings"),
        (lambda d: d.update(strength=1), "a bridge has format"),
        (lambda d: d.update(steerings={}), "its steerings are not a list; correct it"),
        (lambda d: d["base"].pop("digest"), "is no reference to a model"),
        (lambda d: d["base"].update(digest=None), "either revision or digest is null"),
        (lambda d: d["base"].update(name=3), "its values are strings"),
        (lambda d: d["base"].update(digest="0" * 64), "has other weights now"),
        (lambda d: d["base"].update(fingerprint="0" * 64), "has another tokenizer now"),
        (lambda d: d["limits"].update(plausibility_threshold=2), "plausibility_threshold is a fraction"),
        (lambda d: d["steerings"][0].update(strength="much"), "'much' is no strength"),
        (lambda d: d["steerings"][0].update(policy="guess"), "'guess' is not a policy; choose among skip"),
        (lambda d: d["steerings"][0]["combination"].update(method="guess"), "is not a combination"),
        (lambda d: d["steerings"][0]["source"].pop("untuned"), "a source has"),
        (lambda d: d["steerings"][0]["alignment"].update(file="../x"), "is not the name of a file in this folder"),
        (lambda d: d["steerings"][0].update(alignment="x"), "an alignment has file, sha256"),
        (lambda d: d["steerings"].append(3), "a steering has source"),
    ],
)
def test_what_is_wrong_in_bridge_json_is_named(bridge, own, change, says):
    save_bridge(bridge, own / "bridge")
    edit(own / "bridge", change)
    with pytest.raises(VocabridgeError) as error:
        load(own / "bridge", dtype=F32)
    assert str(error.value).startswith(str(own / "bridge" / "bridge.json"))
    assert says in str(error.value)


def test_what_is_no_bridge_is_refused(own):
    with pytest.raises(VocabridgeError, match="nowhere is no bridge"):
        load(own / "nowhere")
    with pytest.raises(VocabridgeError, match="target is no bridge"):
        load(own / "target")


def test_other_files_in_the_folder_are_left_alone(bridge, own):
    (own / "mine").mkdir()
    (own / "mine" / "diary.txt").write_text("mine")
    (own / "file").write_text("mine")
    for place in ("mine", "file"):
        with pytest.raises(VocabridgeError, match="is not empty and is no bridge"):
            save_bridge(bridge, own / place)
    assert [path.name for path in (own / "mine").iterdir()] == ["diary.txt"]
    assert (own / "file").read_text() == "mine"
    (own / "empty").mkdir()
    save_bridge(bridge, own / "empty")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_save_that_fails_leaves_nothing_or_the_old_bridge(bridge, own, monkeypatch, error):
    save_bridge(bridge, own / "old")
    before = {path.name: path.read_bytes() for path in (own / "old").iterdir()}
    monkeypatch.setattr(vocabridge.bridge.saving, "write_atomically", _raiser(error))
    bridge.steering.strength = 0.5
    for place in ("new", "old"):
        with pytest.raises((KeyboardInterrupt, VocabridgeError)):
            save_bridge(bridge, own / place)
    assert not (own / "new").exists()
    assert {path.name: path.read_bytes() for path in (own / "old").iterdir()} == before


def _raiser(error):
    def fail(*_arguments):
        raise error

    return fail


def test_what_cannot_be_referred_to_is_not_saved(bridge, own):
    nameless = replace(load_model(str(own / "target"), dtype=F32), name="x")
    nameless.model.name_or_path = ""
    with pytest.raises(VocabridgeError, match="save the model to a folder"):
        save_bridge(Bridge(nameless, [bridge.steering]), own / "bridge")
    bridge.steering.alignment = None
    with pytest.raises(VocabridgeError, match="has no alignment, so its projection cannot be saved"):
        save_bridge(bridge, own / "bridge")
    assert not (own / "bridge").exists()


HUB = """
import sys, torch, vocabridge
base = vocabridge.load_model("someone/base", dtype=torch.float32)
steering = vocabridge.build_steering(base.vocabulary, sys.argv[1], untuned=sys.argv[2], alignment=sys.argv[3])
vocabridge.save_bridge(vocabridge.Bridge(base, [steering]), "bridge")
"""


def test_a_model_of_the_hub_is_kept_to_its_commit(own, parts):
    """With a hub's cache made by hand, offline: the bridge stays with the old commit when there is a new one."""
    old, new = "a" * 40, "b" * 40
    repository = own / "hub" / "models--someone--base"
    for commit in (old, new):
        shutil.copytree(own / "target", repository / "snapshots" / commit)
    change_weights(repository / "snapshots" / new)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(old)
    parts.alignment.save(own / "pair.safetensors")
    environment = os.environ | {"HF_HUB_CACHE": str(own / "hub"), "HF_HUB_OFFLINE": "1"}
    paths = [own / "tuned", own / "source", own / "pair.safetensors"]
    subprocess.run([sys.executable, "-c", HUB, *map(str, paths)], cwd=own, env=environment, check=True, timeout=100)
    reference = written(own / "bridge")["base"]
    fingerprint = Vocabulary.load(own / "target").fingerprint
    assert reference == {
        "name": "someone/base",
        "fingerprint": fingerprint,
        "revision": old,
        "digest": None,
        "configs": {},
        "adapts": None,
    }
    (repository / "refs" / "main").write_text(new)
    weigh = (
        "import torch, vocabridge\n"
        "bridge = vocabridge.load('bridge', dtype=torch.float32)\n"
        "print(float(bridge.base.get_input_embeddings().weight.double().sum()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", weigh], cwd=own, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    expected = load_model(str(own / "target"), dtype=F32).model.get_input_embeddings().weight.detach().double().sum()
    assert float(done.stdout) == float(expected)


def test_the_boundary_config_comes_back_and_what_is_none_is_named(parts, own):
    config = BoundaryConfig(cover_threshold=0.05, lookahead_tokens=2)
    base, pair = (
        load_model(str(own / "target"), dtype=F32),
        [load_model(str(own / n), dtype=F32) for n in ("tuned", "source")],
    )
    save_bridge(Bridge.over(base, ExpertPair(*pair), parts.alignment, boundary_config=config), own / "bridge")
    assert load(own / "bridge", dtype=F32).steering.boundary_config == config
    document = json.loads((own / "bridge" / "bridge.json").read_text())
    document["steerings"][0]["boundary_config"]["lookahead_tokens"] = "many"
    (own / "bridge" / "bridge.json").write_text(json.dumps(document))
    with pytest.raises(VocabridgeError, match="lookahead_tokens cannot be 'many'; give a value of type int"):
        load(own / "bridge", dtype=F32)
