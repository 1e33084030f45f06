"""Ids that no model has are refused before anything is built that has an entry for each id."""

from __future__ import annotations

import base64
import json
import resource
import time

import pytest
from tokenizers import Tokenizer, models

from vocabridge.alignment import VocabridgeError, Vocabulary, tiktoken_tokenizer

LARGE = 4_000_000_000


def spec(vocab, *added):
    document = json.loads(Tokenizer(models.BPE({"a": 0, "b": 1}, [])).to_str())
    document["model"]["vocab"] = vocab
    entry = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document["added_tokens"] = [entry | {"id": i, "content": f"<{i}>"} for i in added]
    return document


def refused(load, *arguments):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(VocabridgeError) as error:
        load(*arguments)
    assert time.perf_counter() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB
    return str(error.value)


@pytest.mark.parametrize("document", [spec({"a": 0, "b": LARGE}), spec({"a": 0}, 1, LARGE), spec({"a": 1 << 24})])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_tokenizer_with_an_absurd_id_is_refused_without_delay(tmp_path, document, indent):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document, indent=indent))
    message = refused(Vocabulary.load, tmp_path)
    assert message.startswith(f"{path}: it has a token with the id ")
    assert message.endswith("and the ids of a model are below 16777216; download it again")


def test_long_numbers_in_tokens_and_scores_are_no_ids(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec({"a": 0, "b": 1, ": 4000000000": 2})))
    assert Vocabulary.load(tmp_path).size == 3


def test_ranks_and_special_tokens_with_an_absurd_id_are_refused_without_delay(tmp_path):
    ranks = {bytes([byte]): byte for byte in range(256)}
    assert "the id 4000000000" in refused(tiktoken_tokenizer, ranks, ".", {"<s>": LARGE})
    assert "the id 4000000000" in refused(tiktoken_tokenizer, ranks | {b"ab": LARGE}, ".", {})
    vocab = [{"token_bytes": base64.b64encode(data).decode(), "rank": i} for data, i in ranks.items()]
    config = {"pattern": ".", "default_vocab_size": 300, "default_num_special_tokens": 10}
    for name in ("default_vocab_size", "default_num_special_tokens"):
        (tmp_path / "tekken.json").write_text(json.dumps({"vocab": vocab, "config": config | {name: LARGE}}))
        assert "tekken.json: default_vocab_size or default_num_special_tokens" in refused(Vocabulary.load, tmp_path)


def test_the_remedy_names_no_file_that_does_not_exist(tmp_path):
    (tmp_path / "tokenizer.json").write_text(Tokenizer(models.BPE()).to_str())
    message = refused(Vocabulary.load, tmp_path / "tokenizer.json")
    assert "a vocabulary of 0 ids cannot be; load a tokenizer that has tokens" in message
    assert "config.json" not in message
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec({"a": 0})))
    for size in (0, -1, LARGE):
        with pytest.raises(VocabridgeError, match=f"^a vocabulary of {size} ids cannot be; give a size from 1"):
            Vocabulary.load(tmp_path, size=size)


def test_two_tokens_with_the_same_id_are_refused_and_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(spec({"a": 0, "b": 1, "c": 1})))
    with pytest.raises(
        VocabridgeError, match=r"tokenizer\.json: the tokens 'b' and 'c' have the same id, 1; give each"
    ):
        Vocabulary.load(tmp_path)
    with pytest.raises(VocabridgeError, match="the tokens 'b' and 'c' have the same id, 1; give each"):
        Vocabulary.from_tokenizer(Tokenizer.from_file(str(path)))
