"""GGUF tokenizers: tiny files written here for every kind and every way to be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from vocabridge.alignment import Kind, VocabridgeError, Vocabulary, read_gguf_tokenizer


def write(path: Path, architecture: str = "llama", **fields: Any) -> Path:
    """Write a GGUF file with these tokenizer fields and one small tensor."""
    writer = GGUFWriter(path, architecture)
    fields = {"model": "gpt2", **fields}
    writer.add_tokenizer_model(fields["model"])
    writer.add_token_list(fields["tokens"])
    if "types" in fields:
        writer.add_token_types(fields["types"])
    if "scores" in fields:
        writer.add_token_scores(fields["scores"])
    if "merges" in fields:
        writer.add_token_merges(fields["merges"])
    if "pre" in fields:
        writer.add_tokenizer_pre(fields["pre"])
    if "space_prefix" in fields:
        writer.add_add_space_prefix(fields["space_prefix"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(fields.get("template", "{{ messages }}"))
    writer.add_tensor("t", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def bpe(tmp_path: Path) -> dict[str, Any]:
    return {
        "tokens": ["<s>", "</s>", "1", "2", "12", "a", "b", "ab", "Ġ", "Ġab", "<think>", "<x>"],
        "types": [3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4, 5],
        "merges": ["1 2", "a b", "Ġ ab"],
    }


@pytest.fixture
def spm() -> dict[str, Any]:
    tokens = ["<s>", "</s>", "<0x41>", "▁", "a", "b", "c", "ab", "bc", "abc", "▁a", "  ", "\n"]
    return {
        "model": "llama",
        "tokens": tokens,
        "types": [3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1, 4, 4],
        "scores": [0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -9.0, -5.0, -3.0, -4.0, -6.0, -2.0, 0.0],
        "space_prefix": False,
    }


def test_a_byte_level_tokenizer_has_its_tokens_types_and_roles(tmp_path, bpe):
    path = write(tmp_path / "m.gguf", pre="gpt-2", **bpe)
    read = read_gguf_tokenizer(path)
    assert (read.size, read.roles, read.adds_begin) == (12, {"begin": 0, "end": 1}, False)
    assert read.chat_template == "{{ messages }}"
    v = Vocabulary.load(path)
    assert v.token_bytes[:4] == (None, None, b"1", b"2")
    assert v.token_bytes[8:] == (b" ", b" ab", b"<think>", None)
    assert v.kinds[-1] == Kind.UNUSED
    assert v.encode("ab ab<think>12").ids.tolist() == [7, 9, 10, 4]


def test_smollm_sees_digits_one_by_one(tmp_path, bpe):
    v = Vocabulary.load(write(tmp_path / "m.gguf", pre="smollm", **bpe))
    assert v.encode("ab12").ids.tolist() == [7, 2, 3]


@pytest.mark.parametrize(
    ("pre", "ids"),
    [("llama-bpe", [4, 2, 3]), ("qwen2", [2, 3, 2, 3]), ("default", [4, 4])],  # by threes, one by one, all
)
def test_each_pre_tokenizer_cuts_digits_its_own_way(tmp_path, bpe, pre, ids):
    assert Vocabulary.load(write(tmp_path / "m.gguf", pre=pre, **bpe)).encode("1212").ids.tolist() == ids


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["getName", " 1234", " it", "'s", " ./", "\n", "日本x"]),
        ("smollm", ["getName", " ", "1", "2", "3", "4", " it", "'s", " ./", "\n", "日本x"]),
        ("llama-bpe", ["getName", " ", "123", "4", " it", "'s", " ./\n", "日本x"]),
        ("dbrx", ["getName", " ", "123", "4", " it", "'s", " ./\n", "日本x"]),
        ("qwen2", ["getName", " ", "1", "2", "3", "4", " it", "'s", " ./\n", "日本x"]),
        ("qwen35", ["getName", " ", "1", "2", "3", "4", " it", "'s", " ./\n", "日本x"]),
        ("gpt-4o", ["get", "Name", " ", "123", "4", " it's", " ./\n", "日本x"]),
        ("tekken", ["get", "Name", " ", "1", "2", "3", "4", " it", "'s", " ./\n", "日本x"]),
        ("deepseek-v3", ["getName", " ", "123", "4", " it", "'s", " ./\n", "日本", "x"]),
    ],
)
def test_each_pre_tokenizer_cuts_words_its_own_way(tmp_path, bpe, pre, pieces):
    tokenizer = read_gguf_tokenizer(write(tmp_path / "m.gguf", pre=pre, **bpe)).tokenizer
    text = "getName 1234 it's ./\n日本x"
    found = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [text[first:end] for _, (first, end) in found] == pieces


def test_combining_marks_belong_to_the_word_in_the_newest_qwen(tmp_path, bpe):
    for pre, pieces in (("qwen2", ["x", "\u0301y"]), ("qwen35", ["x\u0301y"])):
        tokenizer = read_gguf_tokenizer(write(tmp_path / f"{pre}.gguf", pre=pre, **bpe)).tokenizer
        found = tokenizer.pre_tokenizer.pre_tokenize_str("x\u0301y")
        assert ["x\u0301y"[first:end] for _, (first, end) in found] == pieces


def test_a_chat_template_gives_roles(tmp_path, bpe):
    template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    v = Vocabulary.load(write(tmp_path / "m.gguf", pre="gpt-2", template=template, **bpe))
    assert v.roles == {"begin": 0, "end": 1, "turn begin": 0, "turn end": 1}


def test_llama_3_keeps_a_word_whole_that_is_a_token(tmp_path, bpe):
    whole = bpe | {"merges": ["1 2"]}
    v = Vocabulary.load(write(tmp_path / "m.gguf", pre="llama-bpe", **whole))
    assert v.encode("ab").ids.tolist() == [7]


def test_sentencepiece_merges_come_from_the_scores(tmp_path, spm):
    v = Vocabulary.load(write(tmp_path / "m.gguf", **spm))
    assert v.adds_begin
    assert v.encode("abc").ids.tolist() == [9]  # by way of bc, which scores best
    assert v.encode("ab").ids.tolist() == [7]
    assert v.encode("a  b\n").ids.tolist() == [4, 11, 5, 12]
    assert v.encode("A").ids.tolist() == [2]
    assert v.token_bytes[11:] == (b"  ", b"\n")


def test_gemma_merges_in_the_order_of_its_ids(tmp_path, spm):
    tokens = [*spm["tokens"][:7], "ab", "bc", *spm["tokens"][9:]]
    without = [token if token != "abc" else "xx" for token in tokens]
    by_score = Vocabulary.load(write(tmp_path / "a.gguf", **spm | {"tokens": without}))
    by_id = Vocabulary.load(write(tmp_path / "b.gguf", "gemma3", **spm | {"tokens": without}))
    assert by_score.encode("abc").ids.tolist() == [4, 8]
    assert by_id.encode("abc").ids.tolist() == [7, 6]


def test_a_prepended_space_is_in_the_tokenizer_and_not_in_the_vocabulary(tmp_path, spm):
    path = write(tmp_path / "m.gguf", **spm | {"space_prefix": True})
    assert read_gguf_tokenizer(path).tokenizer.encode("a").ids == [10]
    assert Vocabulary.load(path).encode("a").ids.tolist() == [4]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"pre": "mystery"}, r"m\.gguf: the pre-tokenizer 'mystery' is not known"),
        ({"model": "bert"}, r"m\.gguf: a GGUF tokenizer of model 'bert' cannot be read"),
        ({"merges": ["q z"]}, r"m\.gguf: its tokenizer cannot be built"),
        ({"model": "llama"}, r"m\.gguf: its tokenizer cannot be built"),
    ],
)
def test_a_tokenizer_of_an_unknown_kind_is_an_error_that_names_it(tmp_path, bpe, change, expected):
    path = write(tmp_path / "m.gguf", **bpe | change)
    with pytest.raises(VocabridgeError, match=expected):
        read_gguf_tokenizer(path)


def test_a_file_cut_off_anywhere_is_an_error(tmp_path, bpe):
    path = write(tmp_path / "m.gguf", pre="gpt-2", **bpe)
    whole = path.read_bytes()
    for length in range(0, 400, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(VocabridgeError, match=r"m\.gguf: not a readable GGUF file"):
            read_gguf_tokenizer(path)


def test_a_missing_file_and_a_foreign_file_are_errors(tmp_path):
    with pytest.raises(VocabridgeError, match=r"none\.gguf: cannot be read"):
        read_gguf_tokenizer(tmp_path / "none.gguf")
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(VocabridgeError, match="does not begin with GGUF"):
        Vocabulary.load(tmp_path / "x.gguf")
