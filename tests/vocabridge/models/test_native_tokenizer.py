"""Prompts are encoded as transformers encodes them, for every class and setting in tokenizer_config.json."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefixed_tokenizers import TOKENIZERS
from tokenizers import AddedToken, Tokenizer, normalizers, processors
from transformers import AutoTokenizer

from vocabridge.alignment import Alignment, TokenKind, VocabridgeError, Vocabulary, align
from vocabridge.models.loading import load_model
from vocabridge.models.native_tokenizer import with_transformers_tokenizer
from vocabridge.models.prompts import prompt_ids

FRAGMENTS = ["The fox.", "Question: How", "a", " ", "  b", "\n", "\n\nx", "é", "日本", "👍", "12", "(x)", "▁", "<unk>"]
FRAGMENTS += ["<s>", "</s>", "<|user|>", "<|tool|>", "jumps over"]

texts = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=4)), max_size=8).map("".join)

SETTINGS = {
    "generic class": {"tokenizer_class": "PreTrainedTokenizerFast"},
    "no class": {},
    "Llama": {"tokenizer_class": "LlamaTokenizer"},
    "legacy Llama": {"tokenizer_class": "LlamaTokenizerFast", "legacy": True},
    "Llama without a prefix": {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False},
    "Llama without a bos token": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False},
    "Gemma": {"tokenizer_class": "GemmaTokenizer"},
    "more special tokens": {"extra_special_tokens": ["<|tool|>", "jumps"]},
    "additional special tokens": {"additional_special_tokens": ["<|tool|>", "fox"]},
    "special tokens are split": {"split_special_tokens": True},
    "a prefix space": {"add_prefix_space": True},
}
KINDS = [kind for kind in TOKENIZERS if kind != "wordpiece"]
CASES = [(kind, name) for kind in KINDS for name in SETTINGS] + [
    *(("t5", name) for name in ("generic class", "T5")),
]
SETTINGS["T5"] = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}


def write(folder, tokenizer, **settings):
    tokenizer.add_special_tokens([AddedToken("<|user|>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | settings))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 720}))
    return folder


def t5() -> Tokenizer:
    tokenizer = TOKENIZERS["metaspace always"]()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Return the vocabulary of a folder and the tokenizer of transformers, by kind and settings."""
    pairs = {}
    for kind, name in CASES:
        tokenizer = t5() if kind == "t5" else TOKENIZERS[kind]()
        folder = write(tmp_path_factory.mktemp("tokenizer"), tokenizer, **SETTINGS[name])
        theirs = AutoTokenizer.from_pretrained(folder)
        pairs[kind, name] = with_transformers_tokenizer(Vocabulary.load(folder), str(folder)), theirs
    return pairs


@pytest.mark.parametrize("case", CASES, ids=", ".join)
@given(text=texts)
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_prompts_are_encoded_as_transformers_does_with_every_class_and_setting(tokenizers, case, text):
    vocabulary, theirs = tokenizers[case]
    expected = theirs(text, add_special_tokens=False).input_ids
    encoding = vocabulary.encode_prompt(text)
    assert encoding.ids.tolist() == expected
    adds_bos = theirs("a").input_ids[:1] == [0]
    assert prompt_ids(vocabulary, text) == [0] * adds_bos + expected
    starts = [start for start in encoding.starts.tolist() if start >= 0]
    assert starts == sorted(starts)
    assert all(start <= len(text.encode()) for start in starts)


@pytest.fixture
def llama(own):
    """Return a tiny model with a tokenizer like Llama-2's, which transformers rebuilds without its normalizer."""
    folder = own / "target"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None
    tokenizer.add_special_tokens(["<|user|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "LlamaTokenizer", "legacy": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_prompts_of_a_loaded_model_are_encoded_as_transformers_encodes_them(llama):
    text = "The fox.<|user|>Question: 12 foxes"
    vocabulary, theirs = load_model(str(llama), dtype=torch.float32).vocabulary, AutoTokenizer.from_pretrained(llama)
    assert Vocabulary.load(llama).encode_prompt(text).ids.tolist() != theirs(text, add_special_tokens=False).input_ids
    assert prompt_ids(vocabulary, text) == theirs(text).input_ids
    spelled = b"".join(vocabulary.spell(prompt_ids(vocabulary, text))).decode()
    assert spelled == text.replace("<|user|>", "")


def test_alignments_made_of_the_file_fit_the_loaded_model(llama, own):
    loaded, file = load_model(str(llama)).vocabulary, Vocabulary.load(llama)
    assert loaded.fingerprint == file.fingerprint
    source = Vocabulary.load(own / "source")
    align(source, file, method="retokenize", cache=False).save(own / "pair.safetensors")
    Alignment.load(own / "pair.safetensors", source=source, target=loaded)
    np.testing.assert_array_equal(loaded.kinds, file.kinds)


def test_a_special_token_that_only_the_settings_name_is_a_control_token(tmp_path):
    folder = write(tmp_path, TOKENIZERS["byte-level"](), extra_special_tokens=["<|tool|>"])
    vocabulary = with_transformers_tokenizer(Vocabulary.load(folder), str(folder))
    (new,) = vocabulary.encode_prompt("<|tool|>").ids.tolist()
    assert vocabulary.kinds[new] == TokenKind.CONTROL


def test_a_class_that_gives_tokens_other_ids_is_refused_in_one_sentence(tmp_path):
    vocabulary = Vocabulary.load(write(tmp_path, TOKENIZERS["byte-level"]()))
    other = tmp_path / "other"
    other.mkdir()
    write(other, TOKENIZERS["mistral"]())
    with pytest.raises(VocabridgeError, match=r"gives the token '.*' the id \d+, and its tokenizer\.json \d+; correct"):
        with_transformers_tokenizer(vocabulary, str(other))


def test_a_warning_says_that_tokenizer_json_is_used_if_transformers_cannot_build_the_tokenizer(tmp_path, caplog):
    folder = write(tmp_path, TOKENIZERS["byte-level"](), tokenizer_class="T5Tokenizer")
    vocabulary = Vocabulary.load(folder)
    with caplog.at_level(logging.WARNING, "vocabridge"):
        assert with_transformers_tokenizer(vocabulary, str(folder)) is vocabulary
    (record,) = caplog.records
    assert "transformers cannot build its tokenizer" in record.getMessage()


@pytest.mark.parametrize("value", ["512", [], {}])
def test_a_longest_text_of_another_type_leaves_prompts_to_tokenizer_json_with_a_warning(own, caplog, value):
    path = own / "target" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": value}))
    with caplog.at_level(logging.WARNING, "vocabridge"):
        load_model(str(own / "target"))
    assert "transformers cannot build its tokenizer" in caplog.text
