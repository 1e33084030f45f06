"""GGUF tokenizers, tried with tiny files of every kind and with every defect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from vocabridge.alignment import TokenKind, VocabridgeError, Vocabulary, read_gguf_tokenizer


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
    for role, i in fields.get("roles", {"bos": 0, "eos": 1}).items():
        getattr(writer, f"add_{role}_token_id")(i)
    if "add_bos_token" in fields:
        writer.add_add_bos_token(fields["add_bos_token"])
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
    assert (read.size, read.roles, read.add_bos_token) == (12, {"bos": 0, "eos": 1}, False)
    assert read.chat_template == "{{ messages }}"
    v = Vocabulary.load(path)
    assert v.token_bytes[:4] == (None, None, b"1", b"2")
    assert v.token_bytes[8:] == (b" ", b" ab", b"<think>", None)
    assert v.kinds[-1] == TokenKind.UNUSED
    assert v.encode("ab ab<think>12").ids.tolist() == [7, 9, 10, 4]


def test_smollm_cuts_digits_one_by_one(tmp_path, bpe):
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
    words = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [text[first:end] for _, (first, end) in words] == pieces


def test_combining_marks_belong_to_the_word_in_the_newest_qwen(tmp_path, bpe):
    for pre, pieces in (("qwen2", ["x", "\u0301y"]), ("qwen35", ["x\u0301y"])):
        tokenizer = read_gguf_tokenizer(write(tmp_path / f"{pre}.gguf", pre=pre, **bpe)).tokenizer
        words = tokenizer.pre_tokenizer.pre_tokenize_str("x\u0301y")
        assert ["x\u0301y"[first:end] for _, (first, end) in words] == pieces


def test_a_chat_template_gives_roles(tmp_path, bpe):
    template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    v = Vocabulary.load(write(tmp_path / "m.gguf", pre="gpt-2", template=template, **bpe))
    assert v.roles == {"bos": 0, "eos": 1, "turn begin": 0, "turn end": 1}


def test_llama_3_does_not_cut_a_word_that_is_a_token(tmp_path, bpe):
    data = bpe | {"merges": ["1 2"]}
    v = Vocabulary.load(write(tmp_path / "m.gguf", pre="llama-bpe", **data))
    assert v.encode("ab").ids.tolist() == [7]


def test_sentencepiece_merges_come_from_the_scores(tmp_path, spm):
    v = Vocabulary.load(write(tmp_path / "m.gguf", **spm))
    assert v.add_bos_token
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
    data = path.read_bytes()
    for length in range(0, 400, 7):
        path.write_bytes(data[:length])
        with pytest.raises(VocabridgeError, match=r"m\.gguf: not a readable GGUF file"):
            read_gguf_tokenizer(path)


def test_a_missing_file_and_a_foreign_file_are_errors(tmp_path):
    with pytest.raises(VocabridgeError, match=r"none\.gguf: cannot be read"):
        read_gguf_tokenizer(tmp_path / "none.gguf")
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(VocabridgeError, match="does not begin with GGUF"):
        Vocabulary.load(tmp_path / "x.gguf")


BEGINS = [
    "llama3",
    "llama-v3",
    "llama-bpe",
    "falcon3",
    "falcon-h1",
    "pixtral",
    "midm-2.0",
    "lfm2",
    "tekken",
    "chameleon",
]


@pytest.mark.parametrize("pre", BEGINS)
def test_a_bos_token_is_expected_if_llama_cpp_adds_it_by_default(tmp_path, bpe, pre):
    assert Vocabulary.load(write(tmp_path / "m.gguf", pre=pre, **bpe)).add_bos_token
    assert not Vocabulary.load(write(tmp_path / "n.gguf", pre=pre, add_bos_token=False, **bpe)).add_bos_token


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "dbrx", "gpt-4o", "deepseek-v3", "glm4"])
def test_no_bos_token_is_expected_if_llama_cpp_adds_none_by_default(tmp_path, bpe, pre):
    assert not Vocabulary.load(write(tmp_path / "m.gguf", pre=pre, **bpe)).add_bos_token
    assert Vocabulary.load(write(tmp_path / "n.gguf", pre=pre, add_bos_token=True, **bpe)).add_bos_token


@pytest.mark.parametrize(
    ("pre", "known"),
    [
        ("deepseek-r1-qwen", "qwen2"),
        ("megrez", "qwen2"),
        ("falcon3", "llama-bpe"),
        ("lfm2", "llama-bpe"),
        ("glm4", "dbrx"),
        ("hunyuan-dense", "deepseek-v3"),
        ("minimax-m2", "gpt-4o"),
        ("starcoder", "smollm"),
        ("command-r", "smollm"),
        ("exaone4", "gpt-2"),
        ("phi-2", "gpt-2"),
    ],
)
def test_pre_tokenizers_of_one_group_cut_alike(tmp_path, bpe, pre, known):
    first, second = (Vocabulary.load(write(tmp_path / f"{n}.gguf", pre=n, **bpe)) for n in (pre, known))
    assert first.fingerprint == second.fingerprint
    assert first.add_bos_token == second.add_bos_token


def test_chameleon_cuts_punctuation_and_digits_one_by_one(tmp_path, bpe):
    tokenizer = read_gguf_tokenizer(write(tmp_path / "m.gguf", pre="chameleon", **bpe)).tokenizer
    text = "it's 12..\n<sentinel:12>x"
    words = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    # What one pattern cuts off the next ones cut again, as in llama.cpp.
    pieces = ["it", "'", "s", " ", "1", "2", ".", ".", "\n", "<", "sentinel", ":", "1", "2", ">", "x"]
    assert [text[first:end] for _, (first, end) in words] == pieces


@pytest.fixture
def plain_spm() -> dict[str, Any]:
    """Return a SentencePiece vocabulary in its usual order, without byte tokens."""
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab"]
    return {"model": "llama", "tokens": tokens, "scores": [0.0] * 7, "types": [2, 3, 3, 1, 1, 1, 1], "roles": {}}


def test_a_sentencepiece_file_without_roles_has_those_of_llama_cpp(tmp_path, plain_spm):
    v = Vocabulary.load(write(tmp_path / "m.gguf", space_prefix=False, **plain_spm))
    assert v.roles == {"unk": 0, "bos": 1, "eos": 2}
    assert v.add_bos_token
    assert v.kinds[:3].tolist() == [TokenKind.CONTROL] * 3
    assert v.encode("a日b").ids.tolist() == [4, 0, 5]  # the unknown token stands for what it cannot spell


def test_a_role_that_the_file_names_is_never_overridden_by_a_default(tmp_path, plain_spm):
    named = plain_spm | {"roles": {"bos": 2, "eos": 0}}
    assert Vocabulary.load(write(tmp_path / "m.gguf", **named)).roles == {"bos": 2, "eos": 0}
    absent = plain_spm | {"roles": {"unk": 0, "pad": 0xFFFFFFFF, "bos": 0xFFFFFFFF}}
    assert Vocabulary.load(write(tmp_path / "n.gguf", **absent)).roles == {"unk": 0, "eos": 2}


def test_each_of_two_ids_of_one_spelling_keeps_its_bytes(tmp_path, bpe, spm, plain_spm):
    tokens = [*bpe["tokens"], "ab", "<think>", "é"]
    twice = bpe | {"tokens": tokens, "types": [*bpe["types"], 1, 4, 4]}
    v = Vocabulary.load(write(tmp_path / "a.gguf", pre="gpt-2", **twice))
    assert v.token_bytes[7] == v.token_bytes[12] == b"ab"
    assert v.token_bytes[10] == v.token_bytes[13] == b"<think>"
    assert v.token_bytes[14] == "é".encode()
    assert v.ids_of(b"ab") == (7, 12)
    assert v.encode("ab").ids.tolist() == [v.canonical[b"ab"]]
    # Gemma's runs of spaces, spelled in both ways.
    tokens = [*spm["tokens"], "▁▁", "ab"]
    twice = spm | {"tokens": tokens, "types": [*spm["types"], 1, 1], "scores": [*spm["scores"], -2.0, -5.0]}
    for architecture in ("llama", "gemma3"):
        v = Vocabulary.load(write(tmp_path / f"{architecture}.gguf", architecture, **twice))
        assert v.ids_of(b"  ") == (11, 13)
        assert v.ids_of(b"ab") == (7, 14)
        assert v.encode("a  ab").ids.tolist()[0] == 4
        assert b"".join(v.token_bytes[i] for i in v.encode("a  abc").ids) == b"a  abc"
    # Of two control tokens of one name neither stands for text.
    tokens = [*plain_spm["tokens"], "<s>"]
    twice = plain_spm | {"tokens": tokens, "types": [*plain_spm["types"], 3], "scores": [0.0] * 8}
    v = Vocabulary.load(write(tmp_path / "c.gguf", **twice))
    assert v.kinds[[1, 7]].tolist() == [TokenKind.CONTROL] * 2


def test_a_merge_of_a_token_with_two_ids_has_the_rank_of_the_one_that_is_emitted(tmp_path, spm):
    tokens = ["<s>", "</s>", "a", "b", "c", "ab", "bc", "ab"]
    scores = [0.0, 0.0, -9.0, -9.0, -9.0, -5.0, -3.0, -1.0]
    v = Vocabulary.load(write(tmp_path / "m.gguf", model="llama", tokens=tokens, scores=scores, space_prefix=False))
    assert v.encode("abc").ids.tolist() == [7, 4]


@pytest.mark.parametrize("name", ["types", "scores"])
def test_an_array_shorter_than_the_tokens_is_an_error_and_a_longer_one_is_cut(tmp_path, spm, name):
    key = {"types": "token_type", "scores": "scores"}[name]
    short = write(tmp_path / "m.gguf", **spm | {name: spm[name][:-2]})
    with pytest.raises(VocabridgeError, match=rf"m\.gguf: it has 13 tokens but 11 entries in tokenizer\.ggml\.{key}; "):
        Vocabulary.load(short)
    longer = Vocabulary.load(write(tmp_path / "n.gguf", **spm | {name: [*spm[name], spm[name][0]]}))
    assert longer.fingerprint == Vocabulary.load(write(tmp_path / "o.gguf", **spm)).fingerprint
