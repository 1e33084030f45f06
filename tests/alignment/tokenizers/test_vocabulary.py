"""The byte view: bytes, kinds, widths, starts, segmentation and the fingerprint."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import struct
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from vocabridge.alignment import TokenKind, VocabridgeError, Vocabulary

ADVERSARIAL = [
    "",
    " ",
    "     x",
    "a  b   c\t\td\n\n\ne",
    "_id and id and  id",
    "Ġ is a letter, ▁ is not a space",
    "é e\u0301 ﬁ Å",
    "👍🏽👩‍👩‍👧🇩🇪",
    "日本語 中文 한국어",
    "1234567 12 3.14",
    "<0x41> A <s> </s>x<unk>",
    "\u200b\ufeff\x00\x7f",
    "نص عربي \u202eabc",
    "def f(x):\n    return x  # 你好\r\n",
    "x" * 300,
]

MARK = "turns ▁ (U+2581) into a space"

CHARACTERS = st.sampled_from(" \t\nabĠ▁é日👍\u0301<>_0") | st.characters(exclude_categories=["Cs"])
TEXTS = st.text(CHARACTERS, max_size=60)

relaxed = settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])


def byte_level(vocab: dict[str, int], merges: list[tuple[str, str]] | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges or []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def gemma_like(vocab: dict[str, int], merges: list[tuple[str, str]] | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges or [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(pieces)
    return tokenizer


def test_the_letter_g_with_a_dot_is_a_space_in_one_alphabet_and_a_letter_in_the_other():
    gpt = Vocabulary.from_tokenizer(byte_level({"Ġ": 0, "Ġid": 1, "_id": 2, "Ä": 3, "ł": 4, "ĉ": 5, "Ċ": 6}))
    gemma = Vocabulary.from_tokenizer(gemma_like({"Ġ": 0, "▁id": 1, "_id": 2, "\t": 3, "\n": 4, "<unk>": 5}))
    assert gpt.token_bytes == (b" ", b" id", b"_id", b"\xc4", b"\xa0", b"\t", b"\n")
    assert gemma.token_bytes == ("Ġ".encode(), b" id", b"_id", b"\t", b"\n", None)


def test_a_byte_token_and_its_character_are_two_ids_of_one_byte_string():
    vocab = {"<unk>": 0, "<0x41>": 1, "A": 2, "<0xC3>": 3, "<0xA9>": 4, "é": 5}
    v = Vocabulary.from_tokenizer(gemma_like(vocab))
    assert v.ids_of(b"A") == (1, 2)
    assert v.canonical[b"A"] == 2
    assert v.kinds.tolist() == [
        TokenKind.CONTROL,
        TokenKind.BYTE,
        TokenKind.TEXT,
        TokenKind.BYTE,
        TokenKind.BYTE,
        TokenKind.TEXT,
    ]
    assert v.token_bytes[5] == b"\xc3\xa9"


def test_without_byte_fallback_a_token_that_looks_like_a_byte_is_text():
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("<0x41>", -1.0), ("▁a", -1.0)], 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    assert Vocabulary.from_tokenizer(tokenizer).token_bytes == (None, b"<0x41>", b" a")


def test_special_added_tokens_are_control_and_other_added_tokens_are_their_literal_text():
    tokenizer = byte_level({"a": 0, "b": 1})
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("<|end|>", special=True)])
    tokenizer.add_tokens(["<|reserved_special_token_7|>", "naïve é"])
    v = Vocabulary.from_tokenizer(tokenizer)
    assert v.token_bytes == (b"a", b"b", b"<think>", None, None, "naïve é".encode())
    assert v.kinds.tolist() == [
        TokenKind.TEXT,
        TokenKind.TEXT,
        TokenKind.TEXT,
        TokenKind.CONTROL,
        TokenKind.UNUSED,
        TokenKind.TEXT,
    ]


def test_gemmas_added_runs_of_spaces_are_spaces():
    tokenizer = gemma_like({"<unk>": 0, "▁": 1, "▁▁": 2, "a": 3, "<unused12>": 4}, [("▁", "▁")])
    tokenizer.add_tokens([AddedToken("▁▁", normalized=False)])
    v = Vocabulary.from_tokenizer(tokenizer)
    assert v.token_bytes == (None, b" ", b"  ", b"a", None)
    assert v.kinds[4] == TokenKind.UNUSED
    assert v.encode("  a").ids.tolist() == [2, 3]


def test_the_width_is_the_models_and_not_the_tokenizers():
    tokenizer = byte_level({"a": 0, "b": 1, "c": 4})
    tokenizer.add_special_tokens(["<image>"])
    wide = Vocabulary.from_tokenizer(tokenizer, size=8)
    assert wide.size == len(wide.token_bytes) == len(wide.kinds) == len(wide.lengths) == 8
    assert wide.kinds.tolist() == [0, 0, TokenKind.UNUSED, TokenKind.CONTROL, 0, *[TokenKind.UNUSED] * 3]
    narrow = Vocabulary.from_tokenizer(tokenizer, size=2)
    assert narrow.token_bytes == (b"a", b"b")
    assert narrow.encode("acb").ids.tolist() == [0, 1]
    assert narrow.encode("acb").starts.tolist() == [0, 2]


def test_word_piece_continuations_lose_their_prefix():
    vocab = {"[UNK]": 0, "go": 1, "##ing": 2, "[unused3]": 3}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    v = Vocabulary.from_tokenizer(tokenizer)
    assert v.token_bytes == (None, b"go", b"ing", None)
    assert v.roles == {"unk": 0}
    encoding = v.encode(" going  go")
    assert (encoding.ids.tolist(), encoding.starts.tolist()) == ([1, 2, 1], [1, 3, 8])


def test_a_role_beyond_the_width_is_an_error_that_names_it():
    with pytest.raises(VocabridgeError, match="the eos token has id 9"):
        Vocabulary.from_tokenizer(byte_level({"a": 0}), roles={"eos": 9})


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(VocabridgeError, match="str is not a fast tokenizer"):
        Vocabulary.from_tokenizer("gpt2")


def test_every_usable_token_agrees_with_the_decoder(vocabulary):
    """Decode each token between the letters a and b, so that the decoder cannot strip or merge any of it."""
    if vocabulary.name == "wordpiece":  # its decoder puts spaces that no token has
        return
    for i in vocabulary.usable.tolist():
        try:
            expected = (vocabulary.token_bytes[i] or b"").decode()
        except UnicodeDecodeError:
            continue
        a, b = vocabulary.canonical[b"a"], vocabulary.canonical[b"b"]
        assert vocabulary.tokenizer.decode([a, i, b]) == f"a{expected}b"


def test_a_vocabulary_survives_copying_and_pickling(vocabulary):
    for twin in (copy.deepcopy(vocabulary), pickle.loads(pickle.dumps(vocabulary))):
        assert twin.fingerprint == vocabulary.fingerprint
        assert twin.encode("a b").ids.tolist() == vocabulary.encode("a b").ids.tolist()


@pytest.mark.parametrize("text", ADVERSARIAL)
def test_starts_and_bytes_agree_with_the_text(vocabulary, text):
    check_encoding(vocabulary, text)


@relaxed
@given(text=TEXTS)
def test_starts_and_bytes_agree_with_any_text(vocabulary, text):
    check_encoding(vocabulary, text)


def check_encoding(vocabulary: Vocabulary, text: str) -> None:
    data = text.encode()
    encoding = vocabulary.encode(text)
    assert encoding.ids.dtype == np.int32
    assert encoding.starts.dtype == np.int64
    assert len(encoding.ids) == len(encoding.starts)
    own = encoding.starts[encoding.starts >= 0]
    assert (np.diff(own) > 0).all()
    assert (own < max(1, len(data))).all()
    if vocabulary.name == "byte_level_bpe" and not any(c in text for c in ("<s>", "</s>", "<unk>")):
        spelled = [vocabulary.token_bytes[i] for i in encoding.ids]
        assert b"".join(spelled) == data
        assert [data[s : s + len(b)] for s, b in zip(encoding.starts, spelled, strict=True)] == spelled


def test_encoding_a_batch_is_encoding_each(vocabulary):
    for one, text in zip(vocabulary.encode_batch(ADVERSARIAL), ADVERSARIAL, strict=True):
        alone = vocabulary.encode(text)
        assert one.ids.tolist() == alone.ids.tolist()
        assert one.starts.tolist() == alone.starts.tolist()


def test_a_control_token_in_the_text_has_a_start_and_the_following_tokens_keep_theirs(vocabularies):
    v = vocabularies["byte_level_bpe"]
    encoding = v.encode("é<s>é")
    at = encoding.ids.tolist().index(0)
    assert encoding.starts[at] == 2
    assert encoding.starts[at + 1] == 5


def test_text_that_a_normalizer_changes_starts_at_its_characters():
    tokenizer = byte_level({"Ã": 0, "©": 1, "Ã©": 2, "a": 3}, [("Ã", "©")])
    tokenizer.normalizer = normalizers.NFC()
    encoding = Vocabulary.from_tokenizer(tokenizer).encode("ae\u0301a")
    assert encoding.ids.tolist() == [3, 2, 3]
    assert encoding.starts.tolist() == [0, 1, 4]


def test_only_the_first_of_two_tokens_from_one_changed_character_has_a_start():
    tokenizer = byte_level({"f": 0, "i": 1})
    tokenizer.normalizer = normalizers.NFKC()
    encoding = Vocabulary.from_tokenizer(tokenizer).encode("ﬁf")
    assert encoding.ids.tolist() == [0, 1, 0]
    assert encoding.starts.tolist() == [0, -1, 3]


def test_the_bare_tokenizer_puts_nothing_in_front_of_a_text():
    vocab = {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3, "<s>": 4}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("▁", "a")], unk_token="<unk>", dropout=0.5))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 4)])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    before = tokenizer.to_str()
    v = Vocabulary.from_tokenizer(tokenizer, roles={"bos": 4})
    for _ in range(20):
        assert v.encode("a a").ids.tolist() == [2, 3]
    assert v.add_bos_token
    assert tokenizer.to_str() == before


def test_a_space_that_stands_for_one_cut_away_is_kept():
    scores = [("<unk>", 0.0), ("▁Hello", -1.0), ("▁world", -1.0), ("▁", -2.0)]
    tokenizer = Tokenizer(models.Unigram(scores, 0, False))
    splits = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    encoding = Vocabulary.from_tokenizer(tokenizer).encode("Hello world")
    assert encoding.ids.tolist() == [1, 2]
    assert encoding.starts.tolist() == [0, 5]


@relaxed
@given(data=st.binary(max_size=30))
def test_a_vocabulary_with_all_bytes_spells_any_bytes(vocabularies, data):
    for kind in ("byte_level_bpe", "sentencepiece_bpe"):
        v = vocabularies[kind]
        assert b"".join(v.token_bytes[i] or b"?" for i in v.segment(data)) == data


@relaxed
@given(data=st.binary(min_size=1, max_size=30))
def test_segmenting_always_gives_ids_if_there_is_an_unknown_token(vocabulary, data):
    if "unk" in vocabulary.roles:
        assert vocabulary.segment(data)


def test_segmenting_a_canonical_token_gives_it_back(vocabularies):
    v = vocabularies["sentencepiece_bpe"]
    spelled = [b"".join(v.token_bytes[i] or b"" for i in v.segment(data)) for data in v.canonical]
    assert spelled == list(v.canonical)


def test_text_in_a_case_that_the_vocabulary_lacks_is_segmented_as_the_tokenizer_does(vocabularies):
    v = vocabularies["wordpiece"]
    assert v.segment(b"The") == v.segment(b"the") != ()


def test_the_fingerprint_depends_on_the_contents_and_not_on_the_name(tokenizers_by_kind, vocabularies):
    for kind, tokenizer in tokenizers_by_kind.items():
        again = Vocabulary.from_tokenizer(
            Tokenizer.from_str(tokenizer.to_str()), name="other", roles=dict(vocabularies[kind].roles)
        )
        assert again.fingerprint == vocabularies[kind].fingerprint
    assert len({v.fingerprint for v in vocabularies.values()}) == len(vocabularies)


def test_the_bare_tokenizer_has_the_same_fingerprint(vocabulary):
    again = Vocabulary.from_tokenizer(vocabulary.tokenizer, roles=vocabulary.roles)
    assert again.fingerprint == vocabulary.fingerprint


def test_every_setting_that_decides_segmentation_changes_the_fingerprint():
    vocab = {"a": 0, "b": 1, "ab": 2, "1": 3}
    base = byte_level(vocab, [("a", "b")])
    digits = byte_level(vocab, [("a", "b")])
    digits.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    nfc = byte_level(vocab, [("a", "b")])
    nfc.normalizer = normalizers.NFC()
    added = byte_level(vocab, [("a", "b")])
    added.add_tokens(["b"])
    variants = [base, digits, nfc, added, byte_level(vocab)]
    prints = {Vocabulary.from_tokenizer(tokenizer).fingerprint for tokenizer in variants}
    prints.add(Vocabulary.from_tokenizer(base, size=3).fingerprint)  # a text token has no row
    assert len(prints) == len(variants) + 1


@pytest.fixture
def folder(tmp_path: Path, tokenizers_by_kind: dict[str, Tokenizer]) -> Path:
    tokenizer = Tokenizer.from_str(tokenizers_by_kind["byte_level_bpe"].to_str())
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    roles = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles))
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"vocab_size": 448}, "pad_token_id": 2}))
    return tmp_path


def test_a_folder_sets_width_roles_and_the_bos_token(folder):
    v = Vocabulary.load(folder)
    assert v.size == 448
    assert v.roles == {"bos": 0, "eos": 1, "pad": 2}
    assert v.add_bos_token
    assert Vocabulary.load(folder, size=500).size == 500


def test_a_lone_tokenizer_json_is_enough(folder):
    v = Vocabulary.load(folder / "tokenizer.json")
    assert v.size == 420
    assert v.roles == {}
    assert not v.add_bos_token


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("tokenizer.json", None, "tokenizer.json: no such file"),
        ("tokenizer.json", "{", "tokenizer.json: not a tokenizer.json"),
        ("tokenizer.json", '{"model": {}}', "tokenizer.json: not a tokenizer.json"),
        ("config.json", "not json", "config.json: not readable as JSON"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json: it holds a list; it must be an object"),
    ],
)
def test_a_bad_folder_is_an_error_that_names_the_file(folder, name, content, expected):
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    with pytest.raises(VocabridgeError, match=expected):
        Vocabulary.load(folder)


def test_a_path_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(VocabridgeError, match=r"nothing\.json: no such file or folder"):
        Vocabulary.load(tmp_path / "nothing.json")


CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nBe kind<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m.role + '<|head|>\\n\\n' + m.content | trim + '<|eot|>' }}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{%- for m in messages -%}{%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}"
    "{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{%- endfor -%}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}"
    "{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
HARMONY = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}{% else %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last else '<|end|>' }}{% endif %}{% endfor %}"
)


def chatty(controls: list[str]) -> Tokenizer:
    """Return a tokenizer of single characters, "<s>" and "</s>", and these control tokens from id 128 on."""
    tokenizer = Tokenizer(models.BPE({chr(i): i for i in range(126)}, []))
    tokenizer.add_special_tokens(["<s>", "</s>", *controls])
    return tokenizer


def chat_folder(folder: Path, controls: list[str], template: object, end: str = "</s>") -> Path:
    chatty(controls).save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": end, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("controls", "template", "expected"),
    [
        (["<|im_start|>", "<|im_end|>"], CHATML, {"turn begin": 128, "turn end": 129}),
        (["<|start|>", "<|head|>", "<|eot|>"], LLAMA_3, {"turn begin": 128, "turn content": 129, "turn end": 130}),
        (["<start_of_turn>", "<end_of_turn>"], GEMMA, {"turn begin": 128, "turn end": 129}),
        (["[INST]", "[/INST]"], MISTRAL, {"turn end": 127}),
        (
            ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"],
            HARMONY,
            {"turn begin": 128, "turn content": 130, "turn end": 131},
        ),
        ([], "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", {}),
        (["[INST]"], "{% for m in messages %}[INST]{{ m.content }}{% endfor %}", {"turn begin": 128}),
    ],
    ids=["chatml", "llama-3", "gemma", "mistral", "harmony", "plain", "no end"],
)
def test_the_tokens_around_messages_come_from_the_chat_template(tmp_path, controls, template, expected):
    v = Vocabulary.load(chat_folder(tmp_path, controls, template))
    assert v.roles == {"bos": 126, "eos": 127} | expected


def test_a_token_may_have_two_roles(tmp_path):
    v = Vocabulary.load(chat_folder(tmp_path, ["<|im_start|>", "<|im_end|>"], CHATML, end="<|im_end|>"))
    assert v.roles == {"bos": 126, "eos": 129, "turn begin": 128, "turn end": 129}


def test_a_chat_template_may_be_in_a_file_of_its_own_or_one_of_several(tmp_path):
    named = [{"name": "tool_use", "template": "{{ nothing }}"}, {"name": "default", "template": GEMMA}]
    folder = chat_folder(tmp_path, ["<start_of_turn>", "<end_of_turn>"], named)
    assert Vocabulary.load(folder).roles["turn end"] == 129
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}")
    assert Vocabulary.load(folder).roles["turn end"] == 127


def test_a_tokenizer_of_transformers_provides_its_chat_template():
    class Wrapped:
        backend_tokenizer = chatty(["<|im_start|>", "<|im_end|>"])
        chat_template = CHATML
        bos_token_id = 126

    v = Vocabulary.from_tokenizer(Wrapped())
    assert v.roles == {"bos": 126, "turn begin": 128, "turn end": 129}
    assert Vocabulary.from_tokenizer(Wrapped(), roles={"eos": 127}).roles == {"eos": 127}


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}",
        "{{ undefined_function() }}",
        "{{ raise_exception('no') }}",
        "no messages in here",
        "{{ messages[0].content.__class__.__mro__[1].__subclasses__() }}",
        "{% for m in messages %}{{ m.content }}{{ 'x' * 10000000000 }}{% endfor %}",
        "{{ 2 ** 100000000000 }}",
        "{% for i in range(90000) %}{{ messages | string }}{% endfor %}",
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_damaged_or_hostile_chat_template_is_a_warning_and_no_roles(tmp_path, template, caplog):
    begin = time.monotonic()
    with caplog.at_level(logging.WARNING, "vocabridge"):
        v = Vocabulary.load(chat_folder(tmp_path, ["<|im_start|>"], template))
    assert v.roles == {"bos": 126, "eos": 127}
    assert "so it gives no roles" in caplog.text
    assert time.monotonic() - begin < 20


def test_a_chat_template_changes_roles_and_not_the_fingerprint(tmp_path):
    folder = chat_folder(tmp_path, ["<|im_start|>", "<|im_end|>"], CHATML)
    with_template = Vocabulary.load(folder)
    chat_folder(tmp_path, ["<|im_start|>", "<|im_end|>"], None)
    without = Vocabulary.load(folder)
    assert without.fingerprint == with_template.fingerprint
    assert without.control_roles != with_template.control_roles


@pytest.mark.parametrize("rstrip", [False, True])
def test_a_text_is_cut_at_its_control_tokens_and_the_pieces_have_the_ids_of_the_text(rstrip):
    tokenizer = chatty(["<|im_start|>"])
    tokenizer.add_special_tokens([AddedToken("<|im_end|>", special=True, rstrip=rstrip)])
    v = Vocabulary.from_tokenizer(tokenizer, roles={"bos": 126, "eos": 127})
    text = "<s><|im_start|>user\nhi <|im_end|>  \n<|im_end|>x"
    between = b"" if rstrip else b"  \n"
    assert v.pieces(text) == [126, 128, b"user\nhi ", 129, *([between] if between else []), 129, b"x"]
    ids = [v.encode(piece.decode()).ids.tolist() if isinstance(piece, bytes) else [piece] for piece in v.pieces(text)]
    assert [i for several in ids for i in several] == v.encode(text).ids.tolist()
    assert v.pieces("") == []
    assert v.pieces("plain") == [b"plain"]


def test_text_that_the_tokenizer_cannot_spell_is_text_in_the_pieces():
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert Vocabulary.from_tokenizer(tokenizer).pieces("a b a") == [b"a b a"]


def test_a_conversation_is_rendered_by_the_template(tmp_path):
    v = Vocabulary.load(chat_folder(tmp_path, ["<|im_start|>", "<|im_end|>"], CHATML))
    messages = [{"role": "system", "content": "Hush"}, {"role": "user", "content": "hi"}]
    told = "<|im_start|>system\nHush<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    assert v.render(messages) == told + "<|im_start|>assistant\n"
    assert v.render(messages, add_generation_prompt=False) == told


def test_a_template_has_the_same_variables_as_in_transformers(tmp_path):
    template = (
        "{{ tools is none }} {{ documents is none }} {{ bos_token }} {{ strftime_now('%Y') }} "
        "{{ messages[0] | tojson }}{{ messages[0].content | tojson(indent=1) }}"
    )
    v = Vocabulary.load(chat_folder(tmp_path, ["<|im_start|>"], template))
    year = str(datetime.now().year)
    expected = f'True True <s> {year} {{"role": "user", "content": "<é>"}}"<é>"'
    assert v.render([{"role": "user", "content": "<é>"}]) == expected


def test_a_missing_template_and_messages_that_it_cannot_render_are_errors(tmp_path):
    folder = chat_folder(tmp_path, ["[INST]", "[/INST]"], MISTRAL)
    with pytest.raises(VocabridgeError, match="cannot render these messages"):
        Vocabulary.load(folder).render([{"role": "assistant", "content": "x"}])
    chat_folder(tmp_path, ["[INST]"], None)
    with pytest.raises(VocabridgeError, match="has no chat template; give plain text"):
        Vocabulary.load(folder).render([{"role": "user", "content": "x"}])


def test_given_roles_do_not_remove_the_template():
    class Wrapped:
        backend_tokenizer = chatty(["<|im_start|>", "<|im_end|>"])
        chat_template = CHATML

    v = Vocabulary.from_tokenizer(Wrapped(), roles={"eos": 127})
    assert (v.roles, v.template) == ({"eos": 127}, CHATML)


def charsmap(original: bytes, replacement: bytes) -> bytes:
    """Return a SentencePiece table of characters (a double-array trie) that replaces one byte string."""
    units = [0] * 4096
    at, base = 0, 256
    units[0] = base << 10
    for n, byte in enumerate(original):
        at ^= base
        at ^= byte
        base = 512 * (n + 1)
        units[at] = base << 10 | byte
    units[at] |= 1 << 8
    units[at ^ base] = 1 << 31  # the replacement at offset 0
    return struct.pack(f"<{len(units) + 1}I", 4 * len(units), *units) + replacement + b"\0"


N, P = normalizers, pre_tokenizers


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer", "expected"),
    [
        (None, None, ()),
        (N.Replace(" ", "▁"), None, (MARK,)),
        (N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")]), None, (MARK,)),
        (None, P.Metaspace(), (MARK,)),
        (None, P.ByteLevel(add_prefix_space=True), ()),
        (N.NFC(), P.ByteLevel(add_prefix_space=False), ("NFC: composes characters",)),
        (N.NFD(), None, ("NFD: decomposes characters",)),
        (N.NFKC(), P.Metaspace(), ("NFKC: composes characters and replaces compatibility characters", MARK)),
        (N.NFKD(), None, ("NFKD: decomposes characters and replaces compatibility characters",)),
        (N.Precompiled(charsmap("ﬁ".encode(), b"fi")), P.Metaspace(), ("replaces compatibility characters", MARK)),
        (N.Precompiled(charsmap(b"e\xcc\x81", "é".encode())), P.Metaspace(), ("NFC: composes characters", MARK)),
        (N.Lowercase(), None, ("lower-cases",)),
        (N.Sequence([N.NFD(), N.StripAccents()]), None, ("strips accents",)),
        (N.Sequence([N.NFKC(), N.Replace(Regex(" {2,}"), " ")]), P.Metaspace(),
            ("NFKC: composes characters and replaces compatibility characters", "squeezes runs of spaces", MARK)),
        (N.Strip(left=False, right=True), None, ("strips white space at the end",)),
        (N.Replace("``", '"'), None, ("replaces '``' by '\"'",)),
        (N.Replace("``", "``"), None, ()),
        (N.BertNormalizer(lowercase=True), P.BertPreTokenizer(),
            ("lower-cases", "strips accents", "removes control characters", "drops white space")),
        (N.BertNormalizer(lowercase=False), P.BertPreTokenizer(), ("removes control characters", "drops white space")),
        (None, P.Sequence([P.WhitespaceSplit(), P.Metaspace()]),
            ("squeezes runs of spaces", "turns tabs and newlines into spaces", "strips white space at the end", MARK)),
        (N.Replace("ß", "ss"), None, ("replaces 'ß' by 'ss'",)),
        (N.Precompiled(charsmap("ß".encode(), b"ss")), None, ("changes some characters",)),
    ],
)  # fmt: skip
def test_the_changes_that_a_tokenizer_makes_to_a_text_are_named(normalizer, pre_tokenizer, expected):
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    assert Vocabulary.from_tokenizer(tokenizer).changes == expected


@relaxed
@given(text=TEXTS)
def test_a_tokenizer_that_changes_nothing_spells_any_text(vocabularies, text):
    for kind in ("byte_level_bpe", "sentencepiece_bpe"):
        v = vocabularies[kind]
        assert v.changes == {"byte_level_bpe": (), "sentencepiece_bpe": (MARK,)}[kind]
        if not any(c in text for c in ("<s>", "</s>", "<unk>", "▁")):
            spelled = [v.token_bytes[i] for i in v.encode(text).ids]
            assert b"".join(spelled) == text.encode()


def test_each_of_two_unigram_ids_of_one_spelling_keeps_its_bytes():
    pieces = [("<unk>", 0.0), ("a", -1.0), ("ab", -1.5), ("b", -2.0), ("ab", -1.5)]
    v = Vocabulary.from_tokenizer(Tokenizer(models.Unigram(pieces, unk_id=0)))
    assert v.token_bytes == (None, b"a", b"ab", b"b", b"ab")
    assert v.ids_of(b"ab") == (2, 4)
    assert v.encode("ab").ids.tolist() == [v.canonical[b"ab"]]


@pytest.mark.parametrize("text", ["a\ud800b", "\udcff", "🙂\ud83d"])
def test_half_of_a_surrogate_pair_is_named(tokenizer_folders, text):
    vocabulary = Vocabulary.load(tokenizer_folders.source)
    for read in (vocabulary.encode, vocabulary.pieces):
        with pytest.raises(
            VocabridgeError, match=r"half of a surrogate pair \(U\+D[0-9A-F]{3}\) at character \d; replace"
        ):
            read(text)
