"""Defects of published systems, each with a test that detects it here.

| defect | test |
| --- | --- |
| the letter "Ġ" mistaken for a space | `test_the_letter_of_another_alphabet_is_not_a_space` |
| runs of spaces | `test_runs_of_spaces_are_distinguished_by_their_length` |
| `<0x41>` and `A` | `test_a_byte_token_and_its_character_are_both_found_and_one_has_the_weight` |
| "é" as its code point | `test_a_letter_beyond_ascii_is_its_utf8_bytes` |
| U+FFFD from decoding one id | `test_half_a_character_is_not_the_replacement_character` |
| "_id" against " id" | `test_an_underscore_is_not_a_space` |
| tab against newline | `test_a_tab_is_not_a_newline_and_neither_is_a_space` |
| an id beyond the embedding | `test_an_id_beyond_the_embedding_has_no_row` |
| id holes | `test_holes_among_the_ids_shift_nothing` |
| unordered `get_vocab()` | `test_the_order_in_which_a_tokenizer_lists_its_tokens_decides_nothing` |
| fuzzy names: `<table>` with `<tool_call>` | `test_special_tokens_are_never_paired_by_similar_names` |
| a cache keyed by name | `test_the_cache_distinguishes_tokenizers_of_the_same_name` |
| `torch.load`, pickle | `test_a_pickle_is_refused_and_not_run` |
| edit distance called with an array | test_edit_distance \
`test_a_distance_is_one_of_characters_and_not_of_lists_of_tokens` |
| O(V^2) `list.index` | `test_building_does_not_search_a_list_for_each_token` |
| bos token added at each re-tokenization | `test_encoding_again_adds_no_bos_token`; test_incremental_tokenizer \
`test_after_every_piece_the_ids_equal_the_encoding_of_the_complete_text` |
| position ids stale after a rollback | test_source_stream \
`test_after_a_crop_other_tokens_are_read` |
| `.item()` and `.cpu()` on every token | `test_no_step_of_the_runtime_waits_for_single_numbers` |
| the whole prompt encoded at every token | test_incremental_tokenizer \
`test_only_the_text_after_the_last_safe_cut_is_encoded_again` |
"""

from __future__ import annotations

import ast
import importlib.util
import pickle
import re
import time
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from vocabridge.alignment import (
    METHODS,
    Alignment,
    Combined,
    Corpus,
    IdenticalBytes,
    Retokenize,
    TokenKind,
    VocabridgeError,
    Vocabulary,
    align,
)

TESTS = Path(__file__).parent.parent


def byte_level(tokens: list[str], size: int | None = None) -> Vocabulary:
    """Return a vocabulary in GPT-2's spelling, in which "Ġ" is a space."""
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Vocabulary.from_tokenizer(tokenizer, size=size)


def sentencepiece(tokens: list[str]) -> Vocabulary:
    """Return a vocabulary in Gemma's spelling, in which "▁" is a space and `<0xXX>` a byte."""
    vocab = {token: i for i, token in enumerate(["<unk>", *tokens])}
    tokenizer = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(pieces)
    return Vocabulary.from_tokenizer(tokenizer)


def named_pairs(source: Vocabulary, target: Vocabulary) -> set[tuple[str, str]]:
    """Return the pairs (source token, target token) of `identical-bytes`, as the tokenizers spell them."""
    rows, columns = IdenticalBytes().build(source, target).counts.tocoo().coords
    ids = zip(columns.tolist(), rows.tolist(), strict=True)
    return {(source.tokenizer.id_to_token(w) or "", target.tokenizer.id_to_token(y) or "") for w, y in ids}


def test_the_letter_of_another_alphabet_is_not_a_space():
    assert named_pairs(byte_level(["Ġ", "Ġa"]), sentencepiece(["Ġ", "▁", "Ġa", "▁a"])) == {("Ġ", "▁"), ("Ġa", "▁a")}
    # and the letter, which byte-level spelling writes with two characters, is found
    assert named_pairs(byte_level(["Äł", "Ġ"]), sentencepiece(["Ġ"])) == {("Äł", "Ġ")}


def test_runs_of_spaces_are_distinguished_by_their_length():
    runs = range(1, 9)
    pairs = named_pairs(byte_level(["Ġ" * n for n in runs]), sentencepiece(["▁" * n for n in runs]))
    assert pairs == {("Ġ" * n, "▁" * n) for n in runs}


def test_a_byte_token_and_its_character_are_both_found_and_one_has_the_weight():
    source, target = byte_level(["A"]), sentencepiece(["<0x41>", "A"])
    assert named_pairs(source, target) == {("A", "<0x41>"), ("A", "A")}
    weights = IdenticalBytes().build(source, target).column_weights.toarray()[:, 0]
    assert weights[2] > 0.999 > 0.001 > weights[1] > 0


def test_a_letter_beyond_ascii_is_its_utf8_bytes():
    source, target = byte_level(["Ã©", "é", "©", "Ã"]), sentencepiece(["é", "<0xE9>", "©"])
    # "é" in byte-level spelling is the byte E9, half of nothing; the letter is spelled with two characters.
    assert named_pairs(source, target) == {("Ã©", "é"), ("é", "<0xE9>")}


def test_half_a_character_is_not_the_replacement_character():
    source, target = byte_level(["ð", "ðŁ", "Ł", "ï¿½"]), sentencepiece(["<0xF0>", "<0x9F>", "\ufffd"])
    assert named_pairs(source, target) == {("ð", "<0xF0>"), ("Ł", "<0x9F>"), ("ï¿½", "\ufffd")}


def test_an_underscore_is_not_a_space():
    spelled = ["_id", "▁id", "id"]
    pairs = named_pairs(byte_level(["_id", "Ġid", "id"]), sentencepiece(spelled))
    assert pairs == {("_id", "_id"), ("Ġid", "▁id"), ("id", "id")}


def test_a_tab_is_not_a_newline_and_neither_is_a_space():
    pairs = named_pairs(byte_level(["ĉ", "Ċ", "Ġ", "č"]), sentencepiece(["\n", "\t", "▁", "\r", "<0x0A>"]))
    assert pairs == {("ĉ", "\t"), ("Ċ", "\n"), ("Ċ", "<0x0A>"), ("Ġ", "▁"), ("č", "\r")}


def test_an_id_beyond_the_embedding_has_no_row():
    tokens = ["a", "b", "ab"]
    narrow, full = byte_level(tokens, size=2), byte_level(tokens)
    for builder in (IdenticalBytes(), Retokenize(), Combined()):
        assert builder.build(full, narrow).counts.shape == (2, 3)
        counts = builder.build(narrow, full).counts.tocoo()
        assert counts.shape == (3, 2)
    assert IdenticalBytes().build(full, narrow).counts.toarray().tolist() == [[1, 0, 0], [0, 1, 0]]
    assert (narrow.encode("aab").ids < 2).all()


def test_holes_among_the_ids_shift_nothing():
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 7, "c": 3}, []))
    holes = Vocabulary.from_tokenizer(tokenizer)
    assert holes.kinds.tolist() == [0, 3, 3, 0, 3, 3, 3, 0]
    rows, columns = IdenticalBytes().build(byte_level(["c", "b", "a"]), holes).counts.tocoo().coords
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 2), (3, 0), (7, 1)]


def test_the_order_in_which_a_tokenizer_lists_its_tokens_decides_nothing(tokenizers_by_kind):
    for tokenizer in tokenizers_by_kind.values():
        views = [Vocabulary.from_tokenizer(tokenizer) for _ in range(4)]  # get_vocab is shuffled at every call
        assert len({v.fingerprint for v in views}) == 1
        assert len({v.token_bytes for v in views}) == 1
        for token, i in tokenizer.get_vocab().items():
            assert views[0].tokenizer.id_to_token(i) == token


def controls(*names: str, special: bool = True) -> Vocabulary:
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    tokenizer.add_tokens([AddedToken(name, special=special) for name in names])
    return Vocabulary.from_tokenizer(tokenizer)


def test_special_tokens_are_never_paired_by_similar_names():
    source = controls("<table>", "<|endoftext|>", "<|im_start|>", "[PAD]")
    target = controls("<tool_call>", "<|end_of_text|>", "<|im_start|>", "[PAD]")
    for builder in (IdenticalBytes(), Retokenize(), Combined()):
        rows, columns = builder.build(source, target).counts.tocoo().coords
        assert (target.kinds[rows] == TokenKind.TEXT).all()
        assert (source.kinds[columns] == TokenKind.TEXT).all()
    # Tokens that are text (Gemma's HTML tags) are aligned by their bytes and not by similar names.
    assert named_pairs(controls("<table>", special=False), controls("<tool_call>", special=False)) == {("a", "a")}


def test_the_cache_distinguishes_tokenizers_of_the_same_name():
    def named(tokens: list[str]) -> Vocabulary:
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
        return Vocabulary.from_tokenizer(tokenizer, name="the same name")

    target = named(["a", "b"])
    first, second = (
        align(named(["a", "b"]), target, method="identical-bytes"),
        align(named(["b", "a"]), target, method="identical-bytes"),
    )
    assert first.counts.toarray().tolist() == [[1, 0], [0, 1]]
    assert second.counts.toarray().tolist() == [[0, 1], [1, 0]]


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_is_refused_and_not_run(tmp_path):
    went_off, file = tmp_path / "went off", tmp_path / "alignment.safetensors"
    file.write_bytes(pickle.dumps(Bomb(went_off)))
    with pytest.raises(VocabridgeError, match="not readable as an alignment"):
        Alignment.load(file)
    assert not went_off.exists()
    pickle.loads(file.read_bytes())
    assert went_off.exists()  # pickle.loads runs the code


@pytest.mark.parametrize("package", ["alignment", "cli", "data"])
def test_nothing_unpickles(package):
    for path in sorted((TESTS.parent / package).rglob("*.py")):
        assert not re.search(
            r"^\s*(import|from) (pickle|torch|joblib|dill)\b|torch\.load|allow_pickle=True", path.read_text()
        )


def test_building_does_not_search_a_list_for_each_token():
    """With 150,000 tokens, a list search for each takes minutes instead of seconds."""
    words = [f"{'abcdefgh'[i % 8]}{i:x}" for i in range(150_000)]
    vocab = {"?": 0} | {word: i + 1 for i, word in enumerate(words)}
    source = Vocabulary.from_tokenizer(Tokenizer(models.WordLevel(vocab, unk_token="?")))
    target = Vocabulary.from_tokenizer(
        Tokenizer(models.WordLevel(dict(zip(reversed(words), vocab.values(), strict=False)), unk_token=words[-1]))
    )
    begin = time.process_time()
    counts = IdenticalBytes().build(source, target).counts
    Retokenize().build(source, target)
    assert time.process_time() - begin < 30
    assert counts.nnz >= len(words) - 1


def test_encoding_again_adds_no_bos_token(tokenizers_by_kind):
    for tokenizer in tokenizers_by_kind.values():
        with_bos = Tokenizer.from_str(tokenizer.to_str())
        with_bos.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
        v = Vocabulary.from_tokenizer(with_bos, roles={"bos": 0, "eos": 1})
        assert v.add_bos_token
        for text in ("the fox", "", "a"):
            assert not {0, 1} & set(v.encode(text).ids.tolist())
            assert not {0, 1} & set(v.segment(text.encode()))


def test_a_bos_token_on_one_side_moves_no_start(tokenizers_by_kind, tmp_path, text):
    (tmp_path / "t").write_text(text)
    corpus = Corpus.open([tmp_path / "t"])
    plain = tokenizers_by_kind["byte_level_bpe"]
    with_bos = Tokenizer.from_str(plain.to_str())
    with_bos.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    target = Vocabulary.from_tokenizer(tokenizers_by_kind["sentencepiece_bpe"])
    counts = [
        METHODS["cooccurrence"]().build(Vocabulary.from_tokenizer(each), target, corpus).counts
        for each in (plain, with_bos)
    ]
    assert counts[0].nnz > 50
    assert (counts[0] != counts[1]).nnz == 0


def test_no_step_of_the_runtime_waits_for_single_numbers():
    package = importlib.util.find_spec("vocabridge")
    assert package is not None
    assert package.origin is not None
    waiting = []
    for name in (
        "bridge/model",
        "projection/source_stream",
        "projection/source_predictions",
        "projection/projection",
        "projection/sparse",
        "projection/combination",
        "models/value_source",
    ):
        tree = ast.parse((Path(package.origin).parent / f"{name}.py").read_text())
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        waiting += [
            (name, f.attr, f.lineno) for f in calls if isinstance(f, ast.Attribute) and f.attr in ("item", "cpu")
        ]
    assert waiting == []


def test_every_test_named_above_exists():
    rows = re.findall(r"^\| (?!defect|---)(.+?) \| (.+) \|$", __doc__ or "", re.MULTILINE)
    assert len(rows) == 19
    for _, cell in rows:
        for part in cell.split(";"):
            where = re.search(r"(test_\w+) `", part)
            (file,) = [Path(__file__)] if where is None else TESTS.rglob(f"{where[1]}.py")
            (name,) = re.findall(r"`(test_\w+)`", part)
            assert f"def {name}(" in file.read_text(), name
