"""A reference notices any change to a model, because it covers all weights and all files that define their meaning."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vocabridge.alignment import VocabridgeError
from vocabridge.bridge.build import build_steering
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.saving import load, save_bridge
from vocabridge.models.loading import load_model
from vocabridge.models.reference import Reference, weights_digest
from vocabridge.models.value_network import load_value_network, new_value_network, save_value_network
from vocabridge.models.value_network_files import CONFIG, WEIGHTS
from vocabridge.utils import hashing


def as_shards(folder):
    """Save the weights as three shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "parts").mkdir()
    places = {}
    for number, name in enumerate(tensors):
        places[name] = f"parts/{number % 3}.safetensors"
    for place in set(places.values()):
        kept = {name: tensors[name] for name in tensors if places[name] == place}
        save_file(kept, folder / place, {"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return ["model.safetensors.index.json", *sorted(set(places.values()))]


def as_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return ["pytorch_model.bin"]


def as_pickled_shards(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "one.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "one.bin")}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return ["pytorch_model.bin.index.json", "one.bin"]


def as_named(folder):
    (folder / "model.safetensors").rename(folder / "mine.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "mine.safetensors"}))
    return ["mine.safetensors"]


def as_it_is(folder):
    return ["model.safetensors"]


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def bits(path, count):
    """Return some positions of bits in a file."""
    return random.Random(0).sample(range(8 * path.stat().st_size), count)


def referred(folder):
    return Reference.named(str(folder), "f" * 64)


LAYOUTS = [as_it_is, as_shards, as_pickle, as_pickled_shards, as_named]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_file_that_holds_weights_is_in_the_digest_whatever_the_layout(own, layout):
    files = layout(own / "source")
    model = load_model(str(own / "source")).model  # transformers reads that layout, too
    reference = Reference.of(model, "f" * 64)
    reference.check_place()
    for file in files:
        path = own / "source" / file
        whole = path.read_bytes()
        for bit in bits(path, 60):
            flip(path, bit)
            with pytest.raises(VocabridgeError, match=r"has other weights now|\.json is damaged|which does not exist"):
                reference.check_place()
            path.write_bytes(whole)
    reference.check_place()


def test_a_missing_shard_is_named(own):
    *_, shard = as_shards(own / "source")
    (own / "source" / shard).unlink()
    with pytest.raises(VocabridgeError, match=r"index\.json names 2\.safetensors, which does not exist"):
        referred(own / "source")


def test_a_digest_of_no_files_is_an_error(own):
    (own / "source" / "model.safetensors").unlink()
    with pytest.raises(VocabridgeError, match="source holds no weights"):
        referred(own / "source")
    with pytest.raises(VocabridgeError, match="there is no file with weights"):
        weights_digest([])


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("config.json", "config.json now"),
        ("generation_config.json", "generation_config.json now"),
        ("tokenizer_config.json", "tokenizer now \\(tokenizer_config.json\\)"),
        ("tokenizer.json", "tokenizer now \\(tokenizer.json\\)"),
    ],
)
def test_a_flipped_bit_of_a_models_configuration_is_noticed(own, name, what):
    reference = Reference.of(load_model(str(own / "source")).model, "f" * 64)
    path = own / "source" / name
    whole = path.read_bytes()
    for bit in bits(path, 60):
        flip(path, bit)
        with pytest.raises(VocabridgeError, match=rf"source has another {what}|{name} is damaged"):
            reference.check_place()
        path.write_bytes(whole)
    path.unlink()
    with pytest.raises(VocabridgeError, match=f"source has another {what}"):
        reference.check_place()


def test_a_configuration_file_that_was_added_is_noticed(own):
    (own / "source" / "generation_config.json").rename(own / "kept.json")
    reference = referred(own / "source")
    shutil.copy(own / "kept.json", own / "source" / "generation_config.json")
    with pytest.raises(VocabridgeError, match=r"another generation_config\.json now"):
        reference.check_place()


@pytest.fixture
def values(own):
    network = new_value_network(str(own / "source"), method="lora", rank=2)
    torch.nn.init.normal_(network.value.projection.weight, std=0.3)
    save_value_network(network, own / "values", {"epochs": 1})
    return own / "values"


def test_a_flipped_bit_of_a_value_networks_weights_is_noticed(values):
    whole = (values / WEIGHTS).read_bytes()
    load_value_network(values)
    for bit in bits(values / WEIGHTS, 60):
        flip(values / WEIGHTS, bit)
        with pytest.raises(VocabridgeError, match=rf"values has other weights now|{WEIGHTS} is damaged"):
            load_value_network(values)
        (values / WEIGHTS).write_bytes(whole)


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_a_flipped_bit_of_a_bridges_value_network_is_noticed(own, values, parts, file):
    parts.alignment.save(own / "pair.safetensors")
    base = load_model(str(own / "target"))
    steering = build_steering(base.vocabulary, str(values), alignment=own / "pair.safetensors")
    save_bridge(Bridge(base, [steering]), own / "bridge")
    path = own / "bridge" / "value-1" / file
    whole = path.read_bytes()
    for bit in bits(path, 20):
        flip(path, bit)
        with pytest.raises(VocabridgeError, match=r"bridge\.json: "):
            load(own / "bridge")
        path.write_bytes(whole)
    load(own / "bridge")


def test_a_value_network_without_a_checksum_or_format_is_refused(values):
    config = json.loads((values / CONFIG).read_text())
    for name, says in (("sha256", "sha256"), ("format", "it has format 1, and this version reads format 6")):
        config.pop(name)
        (values / CONFIG).write_text(json.dumps(config))
        with pytest.raises(VocabridgeError, match=rf"value_network\.json is not .* \(.*{says}"):
            load_value_network(values)


def test_a_change_anywhere_in_a_large_file_changes_the_digest(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({f"layers.{layer:03}": torch.zeros(1 << 16) for layer in range(160)}, path)  # 256 KiB each
    start = path.stat().st_size - (160 << 18)
    digests = {weights_digest([path])}
    for layer in range(0, 160, 8):
        with path.open("r+b") as file:
            file.seek(start + (layer << 18))
            file.write(b"\1" * (1 << 18))
        digests.add(weights_digest([path]))
    assert len(digests) == 21


def test_hashes_depend_on_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert hashing.file_digest(path) == hashing.digest(b"content")
    assert hashing.json_digest({"a": 1, "b": 2}) == hashing.json_digest({"b": 2, "a": 1})
