"""Tokenizers made from tiktoken's ranks encode as tiktoken itself does, tried with small ranks trained here."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import tiktoken
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from vocabridge.alignment import TokenKind, VocabridgeError, Vocabulary, read_tiktoken, tiktoken_tokenizer
from vocabridge.alignment.tokenizers.byteview import byte_level_alphabet
from vocabridge.alignment.tokenizers.tiktoken_folder import KIMI_PATTERN

PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
        r"|\s+(?!\S)|\s"
    ),
    "llama3": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    ),
    "o200k": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}

ADVERSARIAL = [
    "",
    "aaaa aaaaa aaaaaaa",
    "It'S I'LL they're '\u017f",
    "12345 123456789 ٣٤٥٦ 1",
    "a\x85b\u2028c\u00a0 d",
    "   \n\n  \r\n x\t\t\n \n",
    "é e\u0301 ﬁ ß ẞ İ",
    "👍🏽👩‍👩‍👧🇩🇪",
    "a  $ b\n  \n",
    "the the<|end|>the <|end|",
    "x" * 200,
]

TEXTS = st.text(st.sampled_from("abe 'sS\n\r\t1٣é\u017f日👍-_$\u0301\u00a0") | st.characters(exclude_categories=["Cs"]))

relaxed = settings(max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """Train ranks on text in which the same token can be reached by several cuts."""
    text = "the theme of these: aaaa aaa aa; banana, 1234 123 12. naïve café 日本 日本語 👍👍\n\n\n  \t\tx = y\n" * 20
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text, "aaaaaaaa ababab abababa"], trainer)
    byte_of = byte_level_alphabet()
    return {bytes(byte_of[c] for c in token): i for token, i in tokenizer.get_vocab().items()}


@pytest.fixture(scope="module", params=PATTERNS)
def both(request: pytest.FixtureRequest, ranks: dict[bytes, int]) -> tuple[Tokenizer, tiktoken.Encoding]:
    pattern, special = PATTERNS[request.param], {"<|end|>": len(ranks) + 3}
    theirs = tiktoken.Encoding("small", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    return tiktoken_tokenizer(ranks, pattern, special), theirs


@pytest.mark.parametrize("text", ADVERSARIAL)
def test_encodings_are_those_of_tiktoken(both, text):
    ours, theirs = both
    assert ours.encode(text).ids == theirs.encode(text, allowed_special="all")


@relaxed
@given(text=TEXTS)
def test_encodings_are_those_of_tiktoken_on_any_text(both, text):
    ours, theirs = both
    assert ours.encode(text).ids == theirs.encode(text, allowed_special="all")


def test_the_byte_view_has_the_bytes_of_the_ranks(ranks):
    v = Vocabulary.from_tokenizer(tiktoken_tokenizer(ranks, PATTERNS["gpt2"], {"<|end|>": len(ranks) + 3}))
    assert {v.token_bytes[i]: i for i in v.usable.tolist()} == ranks
    assert v.kinds[len(ranks) :].tolist() == [TokenKind.UNUSED] * 3 + [TokenKind.CONTROL]


def test_a_possessive_interval_keeps_its_bounds(ranks):
    tokenizer = tiktoken_tokenizer(ranks, PATTERNS["cl100k"], {})
    pieces = tokenizer.pre_tokenizer.pre_tokenize_str("1234567")
    assert [piece for piece, _ in pieces] == ["123", "456", "7"]


@pytest.mark.parametrize(
    ("pattern", "special", "expected"),
    [
        (r"(ab|c){1,2}+|.", {}, "possessive interval after a group"),
        (r"(unclosed", {}, "cannot be used"),
        (r".", {"the": 999}, "'the' .* spelling or id of another token"),
        (r".", {"<|end|>": 3}, "'<|end|>' .* spelling or id of another token"),
    ],
)
def test_a_pattern_or_special_token_that_cannot_be_used_is_an_error_that_names_it(ranks, pattern, special, expected):
    with pytest.raises(VocabridgeError, match=expected.replace("|", r"\|")):
        tiktoken_tokenizer(ranks, pattern, special)


def test_ranks_without_all_bytes_are_refused(ranks):
    without = {data: rank for data, rank in ranks.items() if data != b"\x41"}
    with pytest.raises(VocabridgeError, match="byte 0x41 has no rank"):
        tiktoken_tokenizer(without, ".", {})


def write_ranks(path: Path, ranks: dict[bytes, int]) -> Path:
    path.write_bytes(b"".join(base64.b64encode(data) + b" %d\n" % rank for data, rank in ranks.items()))
    return path


def test_a_tiktoken_file_is_read_and_is_no_vocabulary_by_itself(tmp_path, ranks):
    path = write_ranks(tmp_path / "small.tiktoken", ranks)
    assert read_tiktoken(path) == ranks
    with pytest.raises(VocabridgeError, match=r"small\.tiktoken: such a file does not say how text is cut"):
        Vocabulary.load(path)


@pytest.mark.parametrize("line", [b"YQ==", b"YQ== x", b"Y 1", b"\xff\xfe 1", b"YQ== 1 2"])
def test_a_line_without_a_rank_is_an_error_that_names_the_line(tmp_path, line):
    path = tmp_path / "bad.model"
    path.write_bytes(b"IQ== 0\n" + line + b"\n")
    with pytest.raises(VocabridgeError, match=r"bad\.model: line 2 is no base64 string with a rank"):
        read_tiktoken(path)
    with pytest.raises(VocabridgeError, match="cannot be read"):
        read_tiktoken(tmp_path / "none.tiktoken")


def test_ranks_that_are_not_one_to_one_are_refused(tmp_path, ranks):
    path = tmp_path / "bad.tiktoken"
    path.write_bytes(b"IQ== 0\nYQ== 1\nIQ== 2\n")
    with pytest.raises(VocabridgeError, match=r"bad\.tiktoken: the byte string b'!' has two ranks, 0 and 2; download"):
        read_tiktoken(path)
    path.write_bytes(b"IQ== 0\nYQ== 0\n")
    with pytest.raises(VocabridgeError, match=r"bad\.tiktoken: the rank 0 has two byte strings, b'!' and b'a'"):
        read_tiktoken(path)
    document = tekken(ranks)
    document["vocab"][-3]["token_bytes"] = document["vocab"][-4]["token_bytes"]
    (tmp_path / "tekken.json").write_text(json.dumps(document))
    with pytest.raises(VocabridgeError, match=r"tekken\.json: .* has two ranks"):
        Vocabulary.load(tmp_path / "tekken.json")


def tekken(ranks: dict[bytes, int], **entries: object) -> dict[str, object]:
    """Return a tekken.json with 30 special tokens, and two ranks more than the model has rows for."""
    ordered = sorted(ranks, key=ranks.__getitem__)
    config = {
        "pattern": PATTERNS["o200k"],
        "num_vocab_tokens": len(ranks),
        "default_vocab_size": 30 + len(ranks) - 2,
        "default_num_special_tokens": 30,
        "version": "v3",
    }
    vocab = [{"rank": i, "token_bytes": base64.b64encode(b).decode(), "token_str": None} for i, b in enumerate(ordered)]
    return {"config": config, "vocab": vocab} | entries


def test_a_tekken_json_has_its_special_tokens_first_and_as_many_ranks_as_the_model_has_rows(tmp_path, ranks):
    path = tmp_path / "tekken_1.json"
    path.write_text(json.dumps(tekken(ranks)))
    v = Vocabulary.load(path)
    kept = sorted(ranks, key=ranks.__getitem__)[:-2]
    assert v.size == 30 + len(kept)
    assert list(v.token_bytes[30:]) == kept
    assert v.roles == {"bos": 1, "eos": 2, "pad": 11, "unk": 0}
    assert v.kinds[:30].tolist() == [TokenKind.CONTROL] * 20 + [TokenKind.UNUSED] * 10
    assert v.add_bos_token
    theirs = tiktoken.Encoding(
        "small", pat_str=PATTERNS["o200k"], mergeable_ranks={b: i for i, b in enumerate(kept)}, special_tokens={}
    )
    for text in ADVERSARIAL:
        assert v.encode(text).ids.tolist() == [i + 30 for i in theirs.encode(text)]


def test_a_tekken_json_may_list_its_special_tokens_and_be_in_a_folder(tmp_path, ranks):
    listed = [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(["<unk>", "<s>", "<turn>"])]
    (tmp_path / "tekken.json").write_text(json.dumps(tekken(ranks, special_tokens=listed)))
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 400}))
    v = Vocabulary.load(tmp_path)
    assert v.size == 400
    assert v.roles == {"bos": 1, "unk": 0}
    assert v.kinds[:30].tolist() == [TokenKind.CONTROL] * 3 + [TokenKind.UNUSED] * 27


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"config": {}, "vocab": []}'])
def test_a_damaged_tekken_json_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "tekken.json").write_text(content)
    with pytest.raises(VocabridgeError, match=r"tekken\.json: not a readable tekken\.json"):
        Vocabulary.load(tmp_path / "tekken.json")


def test_a_tekken_json_is_read_instead_of_a_tokenizer_json_with_a_warning(tmp_path, ranks, caplog):
    """Prefer tekken.json, because the conversion cuts some words differently from Mistral's own tokenizer."""
    (tmp_path / "tekken.json").write_text(json.dumps(tekken(ranks)))
    Tokenizer(models.BPE({"a": 0, "b": 1}, [])).save(str(tmp_path / "tokenizer.json"))
    template = "{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    with caplog.at_level("WARNING"):
        v = Vocabulary.load(tmp_path)
    assert v.fingerprint == Vocabulary.load(tmp_path / "tekken.json").fingerprint
    assert v.template == template
    assert "its tekken.json is read, not the tokenizer.json" in caplog.text


SENTENCEPIECE = b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02\n\x0c\n\x03<s>\x15\x00\x00\x00\x00\x18\x03"


def test_a_sentencepiece_model_is_recognized_as_such(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(SENTENCEPIECE)
    for read in (lambda: Vocabulary.load(path), lambda: Vocabulary.load(tmp_path), lambda: read_tiktoken(path)):
        with pytest.raises(VocabridgeError, match=r"tokenizer\.model: a SentencePiece model; give a tokenizer\.json"):
            read()


def kimi(folder: Path, ranks: dict[bytes, int], **settings: object) -> tuple[Path, int]:
    """Write a folder like Kimi's; return it with the first id of its special tokens."""
    write_ranks(folder / "tiktoken.model", ranks)
    first = max(ranks.values()) + 1
    names = {first: "[BOS]", first + 1: "[EOS]", first + 2: "<|im_end|>"}
    facts = {
        "tokenizer_class": "TikTokenTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]},
        "added_tokens_decoder": {str(i): {"content": name, "special": True} for i, name in names.items()},
        "bos_token": "[BOS]",
        "eos_token": "[EOS]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts | settings))
    return folder, first


def test_a_folder_with_a_tiktoken_model_of_kimi_is_read(tmp_path, ranks):
    folder, first = kimi(tmp_path, ranks)
    v = Vocabulary.load(folder)
    assert v.size == first + 256
    assert v.roles == {"bos": first, "eos": first + 1}
    assert v.kinds[first:].tolist() == [TokenKind.CONTROL] * 3 + [TokenKind.UNUSED] * 253
    assert v.encode("a<|im_end|>").ids.tolist() == [ranks[b"a"], first + 2]


def test_kimis_pattern_cuts_chinese_from_other_letters(tmp_path, ranks):
    """Compare with tiktoken, which uses the pattern as it is."""
    v = Vocabulary.load(kimi(tmp_path, ranks)[0])
    theirs = tiktoken.Encoding("kimi", pat_str=KIMI_PATTERN, mergeable_ranks=ranks, special_tokens={})
    for text in [*ADVERSARIAL, "中文abc中文\uff0cÉté的DEF's 12345日本語かな漢字カナ x\u0301\n\n a  b"]:
        assert v.encode(text).ids.tolist() == theirs.encode(text, disallowed_special=())
    words = v.tokenizer.pre_tokenizer.pre_tokenize_str("中文abc日本")
    assert [end for _, (_, end) in words] == [2, 5, 7]


def test_a_tiktoken_model_of_an_unknown_tokenizer_raises_one_sentence(tmp_path, ranks):
    folder, _ = kimi(tmp_path, ranks, tokenizer_class="MyTokenizer", auto_map={})
    with pytest.raises(VocabridgeError, match=r"tiktoken\.model: it does not say how text is cut into words"):
        Vocabulary.load(folder)
