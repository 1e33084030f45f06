"""A model's folder that is damaged or would run code raises an error of one sentence, without code run or questions."""

import builtins
import gzip
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.models.loading import load_model


class Running:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder):
        self._folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self._folder),)


@pytest.fixture
def model(model_folders, tmp_path):
    return shutil.copytree(model_folders.source, tmp_path / "model")


@pytest.fixture(autouse=True)
def _no_questions(monkeypatch):
    def ask(*_):
        raise AssertionError("it asks on stdin")

    monkeypatch.setattr(builtins, "input", ask)


def configure(model, **settings):
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def refused(model):
    with pytest.raises(VocabridgeError) as error:
        load_model(str(model))
    text = str(error.value)
    assert str(model) in text
    assert "\n" not in text
    return text


def test_pickled_weights_that_would_run_code_are_refused_with_safe_advice(model, tmp_path):
    (model / "model.safetensors").unlink()
    torch.save({"weight": Running(tmp_path / "ran")}, model / "pytorch_model.bin")
    text = refused(model)
    assert "convert them to safetensors where they come from" in text
    for advice in ("weights_only", "trust", "unsafe", "https://"):
        assert advice not in text
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_without_code_are_read(model):
    weights = load_file(model / "model.safetensors")
    expected = load_model(str(model), dtype=torch.float32).model.state_dict()
    (model / "model.safetensors").unlink()
    torch.save(weights, model / "pytorch_model.bin")
    state = load_model(str(model), dtype=torch.float32).model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


CODE = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": ["own.Tokenizer", None]}


def test_a_model_with_code_of_its_own_is_refused_without_asking(model, tmp_path):
    configure(model, model_type="own", architectures=["Model"], auto_map=CODE)
    (model / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    text = refused(model)
    assert "needs Python code of its own" in text
    assert "trust_remote_code" not in text
    assert not (tmp_path / "ran").exists()


def test_a_model_of_a_known_class_is_loaded_without_running_its_own_code(model, tmp_path):
    configure(model, auto_map=CODE)
    (model / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    assert load_model(str(model)).model.config.model_type == "llama"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"layer_types": ["full_attention"] * 3}, "num_hidden_layers"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "cannot load a causal language model"),
        ({"hidden_act": "none such"}, "KeyError: 'none such'"),
        ({"rope_parameters": "x"}, "rope_parameters"),
        ({"model_type": ["llama"]}, "cannot load a causal language model"),
        ({"model_type": 5}, "cannot load a causal language model"),
    ],
)
def test_a_configuration_that_contradicts_itself_raises_one_sentence(model, settings, says):
    configure(model, **settings)
    assert says in refused(model)


@pytest.mark.parametrize("size", [10**13, (1 << 24) + 1, -5])
def test_a_vocabulary_of_absurd_width_is_refused_before_it_takes_memory(model, size):
    configure(model, vocab_size=size)
    with pytest.raises(VocabridgeError, match=f"a vocabulary of {size} ids cannot be; correct vocab_size"):
        Vocabulary.load(model)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json", "tokenizer.json"])
def test_a_model_with_a_file_compressed_with_gzip_raises_one_sentence_that_says_to_decompress_it(model, name):
    (model / name).write_bytes(gzip.compress((model / name).read_bytes()))
    assert refused(model) == f"{model / name}: compressed with gzip; decompress it (gunzip) and name the result"


def test_a_configuration_that_is_null_raises_one_sentence_that_says_so(model):
    (model / "config.json").write_text("null")
    assert "config.json is damaged (it holds null; it must be an object)" in refused(model)
