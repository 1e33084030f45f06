"""Tokenizers that lack something, and settings with odd values: they are loaded, or the error is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from vocabridge.alignment import Cooccurrence, Corpus, VocabridgeError, Vocabulary
from vocabridge.alignment.tokenizers.unknown import may_lack_unk, with_unk


def without_unknown(kind: str) -> Tokenizer:
    """Return a tokenizer with the tokens a and b and without an unknown token."""
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0)], None, byte_fallback=False))
    elif kind == "wordlevel":
        tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="[UNK]"))
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece({"a": 0, "b": 1}, unk_token="[UNK]"))
    else:
        tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1}, [], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


@pytest.mark.parametrize("kind", ["unigram", "wordlevel", "wordpiece", "bpe"])
@pytest.mark.parametrize("size", [None, 5])
def test_text_that_cannot_be_spelled_is_left_out_without_an_unknown_token(kind, size):
    v = Vocabulary.from_tokenizer(without_unknown(kind), size=size)
    assert v.size == (size or 2)
    assert v.token_bytes[:2] == (b"a", b"b")
    assert v.roles == {}
    texts = ["a b"] * 1000 + ["a 日本 b"]
    encodings = v.encode_batch(texts)
    assert all(encoding.ids.tolist() == [0, 1] for encoding in encodings)
    assert encodings[-1].starts.tolist() == [0, 9]
    assert v.segment_batch([b"a", "日".encode(), b"\xff"]) == [(0,), (), ()]
    assert v.pieces("a 日") == ["a 日".encode()]


@pytest.mark.parametrize("kind", ["unigram", "wordlevel", "wordpiece", "bpe"])
def test_a_tokenizer_that_lacks_an_unknown_token_is_recognized_without_its_json(kind):
    tokenizer = without_unknown(kind)
    spec = json.loads(tokenizer.to_str())
    assert may_lack_unk(tokenizer)
    completed = with_unk(spec, 2)
    assert completed is not spec
    if kind != "unigram":  # only its JSON shows the unknown token
        assert not may_lack_unk(Tokenizer.from_str(json.dumps(completed)))


def test_a_text_that_cannot_be_spelled_does_not_spoil_a_corpus(tmp_path):
    (tmp_path / "corpus.txt").write_text("a b\n" * 500 + "日本\n" + "b a\n" * 500, encoding="utf-8")
    v = Vocabulary.from_tokenizer(without_unknown("wordpiece"))
    counts = Cooccurrence().build(v, v, Corpus.open([tmp_path / "corpus.txt"])).counts
    assert counts.toarray().tolist() == [[1000, 0], [0, 1000]]


def test_an_unknown_token_that_is_only_an_added_token_is_emitted():
    tokenizer = without_unknown("wordpiece")
    tokenizer.add_special_tokens(["[UNK]"])
    v = Vocabulary.from_tokenizer(tokenizer)
    assert v.roles == {"unk": 2}
    assert v.encode("a 日 b").ids.tolist() == [0, 2, 1]


def test_an_empty_vocabulary_is_an_error():
    with pytest.raises(VocabridgeError, match="a vocabulary of 0 ids cannot be"):
        Vocabulary.from_tokenizer(Tokenizer(models.BPE()))


def folder(path: Path, **files: Any) -> Path:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "<s>": 2}, []))
    tokenizer.save(str(path / "tokenizer.json"))
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return path


@pytest.mark.parametrize("none", [-1, None, []])
def test_an_id_of_minus_1_stands_for_no_token(tmp_path, none):
    config = {f"{token}_token_id": none for token in ("bos", "eos", "pad", "unk")}
    assert Vocabulary.load(folder(tmp_path, config=config)).roles == {}


@pytest.mark.parametrize(
    ("name", "key", "value", "expected"),
    [
        ("config", "vocab_size", "12", "a whole number"),
        ("config", "vocab_size", 12.5, "a whole number"),
        ("config", "vocab_size", True, "a whole number"),
        ("config", "bos_token_id", "2", "a whole number"),
        ("config", "bos_token_id", {"a": 1}, "a whole number"),
        ("config", "eos_token_id", [2, "x"], "a whole number or a list"),
        ("config", "text_config", [1], "an object"),
        ("config", "model_type", 5, "a string"),
        ("tokenizer_config", "tokenizer_class", 5, "a string"),
        ("tokenizer_config", "bos_token", 5, "a string"),
        ("tokenizer_config", "eos_token", {"content": 3}, "a string"),
        ("special_tokens_map", "pad_token", ["<s>"], "a string"),
        ("tokenizer_config", "add_bos_token", "yes", "true or false"),
        ("tokenizer_config", "chat_template", 5, "a string"),
        ("tokenizer_config", "chat_template", [{"name": "default", "template": 5}], "a string"),
    ],
)
def test_a_value_of_a_wrong_json_type_is_an_error_that_names_file_and_key(tmp_path, name, key, value, expected):
    with pytest.raises(
        VocabridgeError, match=rf"/{name}\.json: {key} is .* where {expected}.* is expected; correct it"
    ):
        Vocabulary.load(folder(tmp_path, **{name: {key: value}}))


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "null"), (True, "true"), (5, "a number"), ("x", "a string"), ([1], "a list")],
)
@pytest.mark.parametrize("name", ["config", "tokenizer_config", "special_tokens_map"])
def test_an_error_says_what_a_file_without_an_object_holds(tmp_path, name, value, kind):
    with pytest.raises(VocabridgeError, match=rf"/{name}\.json: it holds {kind}; it must be an object"):
        Vocabulary.load(folder(tmp_path, **{name: value}))


def test_a_pad_token_without_a_row_is_warned_of_unless_the_tokenizer_has_it(tmp_path, caplog):
    v = Vocabulary.load(folder(tmp_path, config={"pad_token_id": 99}))
    assert v.roles == {}
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: there is no token with its pad_token_id, 99; correct its config.json."
    ]
    caplog.clear()
    files = {"config": {"vocab_size": 2}, "tokenizer_config": {"pad_token": "<s>"}}  # added for batches
    assert Vocabulary.load(folder(tmp_path, **files)).roles == {}
    assert not caplog.records


def test_an_id_beyond_the_vocabulary_is_an_error_with_a_remedy(tmp_path):
    remedy = "has id 99, but the vocabulary has 3 ids; correct bos_token_id or vocab_size in its config.json"
    with pytest.raises(VocabridgeError, match=remedy):
        Vocabulary.load(folder(tmp_path, config={"bos_token_id": 99}))
