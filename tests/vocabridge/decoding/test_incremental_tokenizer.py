"""Tests of incremental tokenization, with the encoding of the complete text as the reference, and of safe cuts."""

from __future__ import annotations

import codecs
import importlib.util
import string
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from vocabridge.alignment import Place, TokenKind, Vocabulary
from vocabridge.alignment.tokenizers.byteview import byte_level_alphabet
from vocabridge.decoding.incremental_tokenizer import _CONTINUATION, CoverCandidate, IncrementalTokenizer, _completions
from vocabridge.decoding.safe_cuts import safe_cuts
from vocabridge.models.loading import resolve_vocabulary
from vocabridge.models.prompts import Piece
from vocabridge.projection.config import BoundaryConfig
from vocabridge.projection.token_healing import TokenHealer

FRAGMENTS = [
    "The quick brown fox", "fox", " fox", " the dogs", "a b", "x1 2", "12345", " 345", "a", "b", "Z9", "İ", "ß",
    " ", "  ", "     ", "\t", "\n", "\n\n", " \n ", "\r\n", "\u00a0", "\u200b", "\u3000", "x\n", "\n    ",
    "def count(words):\n    return", "\t\tif x:\n", "_id", "'s", "#### 168\n", "24*7=168", "(a b)", ".", ", ",
    "東京は日本", "首", "都です。", "。", "\uff0c", "。日", "\uff1aカ", "한국",
    "мир", "naïve", "e\u0301", " \u0301", "a\u0301 ", "ﬁ", "½ a", "\u1100\u1161",
    "🙂", "👩‍👩‍👧", "👍🏽", "🇩🇪", "▁", "Ġ", "<0x41>", "<|end|>", "<|start of turn|>", "<|start of ", "turn|>", "<unk>",
]  # fmt: skip
LETTERS_OR_OTHERS = r" ?[\p{L}\p{N}]+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"
BROKEN = [b"\xff", b"\xc3", b"\xf0\x9f", b"\x80", b"\xe6\x9d", b"\xed\xa0\x80", b"\xc0\xaf", b"\x00"]
CONTROLS = [0, 1]
"""Control tokens of all vocabularies in these tests: bos and eos."""

EXACT = ["byte_level", "sentencepiece", "no_safe_cuts"]
"""Vocabularies whose tokens spell every text exactly."""

texts = st.lists(
    st.one_of(
        st.sampled_from(FRAGMENTS).map(str.encode),
        st.sampled_from(BROKEN),
        st.text(max_size=6).map(str.encode),
        st.binary(max_size=4),
    ),
    max_size=20,
).map(b"".join)

# Without "▁", which is the space of one vocabulary, and the names of control tokens, because no token spells them.
whole_texts = st.lists(
    st.one_of(
        st.sampled_from([fragment for fragment in FRAGMENTS if not {"▁", "<"} & set(fragment)]),
        st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=5),
    ),
    max_size=12,
).map("".join)

ALL_COVERS = (2, tuple("etaoinsrhldf"))
"""Arguments of `cover_candidates` for all covers."""


@st.composite
def pieces(draw: st.DrawFn) -> list[Piece]:
    """Draw pieces of a text, cut even inside characters; some are empty, and control tokens stand between some."""
    data = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=30)))
    if draw(st.booleans()):
        cuts = list(range(len(data) + 1))
    parts: list[Piece] = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    for at in draw(st.lists(st.integers(0, len(parts)), max_size=2)):
        parts.insert(at, draw(st.sampled_from(CONTROLS)))
    return parts


@st.composite
def beginnings(draw: st.DrawFn) -> bytes:
    """Draw the beginning of a text, cut even inside characters."""
    data = draw(whole_texts).encode()
    return data[: draw(st.integers(0, len(data)))]


def relaxed(thorough: int) -> settings:
    return settings(max_examples=examples(thorough), suppress_health_check=[HealthCheck.function_scoped_fixture])


def scratch(vocabulary: Vocabulary, text: str, *, after_control: bool) -> list[int]:
    """Encode a text with the model's own tokenizer, at the beginning or after a control token."""
    control = vocabulary.tokenizer.id_to_token(CONTROLS[1]) if after_control else ""
    ids = vocabulary.native.encode(control + text, add_special_tokens=False).ids
    return [i for i in (ids[ids.index(CONTROLS[1]) + 1 :] if after_control else ids) if i < vocabulary.size]


def check(vocabulary: Vocabulary, parts: list[Piece]) -> None:
    tokenizer = IncrementalTokenizer(vocabulary)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    committed, text, after = vocabulary.bos_ids, "", False
    for number, piece in enumerate(parts):
        tokenizer.append(piece)
        if isinstance(piece, int):
            text += decoder.decode(b"", final=True)
            committed, text = [*committed, *scratch(vocabulary, text, after_control=after), piece], ""
            after = True
            decoder.reset()
        else:
            text += decoder.decode(piece)
        expected = committed + scratch(vocabulary, text, after_control=after)
        assert tokenizer.ids == expected
        assert tokenizer.partial_utf8 == decoder.getstate()[0]
        if number % 3:  # this commits the tokens in front of the last safe cut
            first = tokenizer.cover_candidates(*(ALL_COVERS if number % 2 == 0 else ()))[0]
            assert [*tokenizer.committed_ids, *first.ids] == expected
            assert tokenizer.ids == expected
            assert (
                first.pending
                == (b" " if tokenizer.awaits_prefix_space and tokenizer.partial_utf8 else b"") + tokenizer.partial_utf8
            )


@given(parts=pieces())
@relaxed(120)
def test_after_every_piece_the_ids_equal_the_encoding_of_the_complete_text(any_vocabulary, parts):
    check(any_vocabulary, parts)


@given(parts=pieces(), more=pieces())
@relaxed(30)
def test_a_copy_is_independent(any_vocabulary, parts, more):
    tokenizer, alone = IncrementalTokenizer(any_vocabulary), IncrementalTokenizer(any_vocabulary)
    for piece in parts:
        tokenizer.append(piece)
        alone.append(piece)
    copy = tokenizer.copy()
    for piece in more:
        copy.append(piece)
        copy.cover_candidates(*ALL_COVERS)
    assert (tokenizer.ids, tokenizer.partial_utf8) == (alone.ids, alone.partial_utf8)
    for piece in more:
        tokenizer.append(piece)
    assert copy.ids == tokenizer.ids


def test_the_bos_token_stands_in_front_once_and_only_if_the_model_expects_it(loaded):
    assert loaded["source"].vocabulary.bos_ids == []
    assert loaded["target"].vocabulary.bos_ids == [0]
    tokenizer = IncrementalTokenizer(loaded["target"].vocabulary)
    for piece in (b"a ", b"b ", 1, b"c"):
        tokenizer.append(piece)
        tokenizer.cover_candidates(*ALL_COVERS)
    assert tokenizer.ids.count(0) == 1
    assert tokenizer.ids[0] == 0


def test_a_control_token_ends_the_text_in_front_of_it(vocabularies):
    """An incomplete character in front of it becomes U+FFFD, and no token spans it."""
    vocabulary = vocabularies["byte_level"]
    tokenizer = IncrementalTokenizer(vocabulary)
    for piece in (b"The fo", b"\xf0\x9f", 1, b"x"):
        tokenizer.append(piece)
    before, after = (vocabulary.encode(text).ids.tolist() for text in ("The fo\ufffd", "x"))
    assert tokenizer.ids == [*before, 1, *after]
    assert tokenizer.ids != [*vocabulary.encode("The fox").ids.tolist(), 1]


# --- safe cuts ---------------------------------------------------------------------------------------------------


def test_which_kinds_have_safe_cuts(vocabularies):
    cuts = {kind: safe_cuts(vocabulary) for kind, vocabulary in vocabularies.items()}
    at_spaces = {kind for kind, pattern in cuts.items() if pattern and pattern.search("fox fox")}
    at_stops = {kind for kind, pattern in cuts.items() if pattern and pattern.search("日本。国")}
    assert {"byte_level", "wordpiece"} <= at_spaces
    assert {"byte_level", "sentencepiece"} <= at_stops
    assert not at_spaces & {"no_safe_cuts", "special_with_spaces", "sentencepiece"}


def byte_level(*tokens: bytes, pattern: str = LETTERS_OR_OTHERS) -> Vocabulary:
    """Return a byte-level BPE with these tokens and all their prefixes, which splits words by a pattern."""
    spell = {byte: character for character, byte in byte_level_alphabet().items()}
    vocab = {spell[byte]: byte for byte in range(256)}
    merges = []
    for token in tokens:
        spelled = "".join(spell[byte] for byte in token)
        for end in range(2, len(spelled) + 1):
            if spelled[:end] not in vocab:
                vocab[spelled[:end]] = len(vocab)
                merges.append((spelled[: end - 1], spelled[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return Vocabulary.from_tokenizer(tokenizer, name="made", roles={})


@pytest.mark.parametrize(
    ("token", "sample"),
    [
        ("\u00a0 \u00a0".encode(), "fox fox"),  # ends in the last byte of "à"
        ("\u3000 ".encode(), "fox fox"),
        ("。\n\n".encode(), "fox\nfox"),
        ("\u201d\n".encode(), "fox\nfox"),
        ("\u0435\u0432".encode(), "日。国"),
    ],
)
def test_a_token_that_only_shares_its_last_byte_with_letters_leaves_safe_cuts(token, sample):
    pattern = safe_cuts(byte_level(token))
    assert pattern
    assert pattern.search(sample)


def test_a_token_with_part_of_a_character_leaves_safe_cuts_only_where_words_are_split():
    """The token is the last byte of 】 and of many letters, and a newline."""
    token = "】".encode()[-1:] + b"\n"
    splitting, joining = byte_level(token), byte_level(token, pattern=r"\S+\n|\S+|\s+")
    assert safe_cuts(splitting).search("fox\nfox")
    assert not safe_cuts(joining).search("fox\nfox")
    letter = next(c for c in map(chr, range(0x4E00, 0x9FFF)) if c.encode()[-1:] == token[:1])
    for vocabulary in (splitting, joining):
        check(vocabulary, [bytes([byte]) for byte in f"fox {letter}\n\n{letter}\nx".encode()])


@pytest.mark.parametrize("token", ["a b", "1\n", "日。", "。国", "日 "])
def test_a_token_that_spans_a_place_makes_all_places_of_its_kind_unsafe(token):
    pattern = safe_cuts(byte_level(token.encode(), pattern=r"[\s\S]+"))
    assert not pattern or not pattern.search(token)


def test_there_is_no_safe_cut_after_a_letter_whose_normal_form_ends_with_a_mark(vocabularies):
    """NFKC writes U+2474 as (1), so a token may span ) and a newline; U+FE70 ends in a vowel mark."""
    pattern = safe_cuts(vocabularies["byte_level"])
    for character in "\u2474\ufe70\u0130":
        assert character.isalnum()
        assert not pattern.search(f"x{character}\n")


@given(data=texts)
@relaxed(60)
def test_no_token_crosses_a_safe_cut(any_vocabulary, data):
    text, pattern = data.decode(errors="replace"), safe_cuts(any_vocabulary)
    ids = any_vocabulary.encode(text).ids.tolist()
    for cut in [match.start() for match in pattern.finditer(text)] if pattern else []:
        left, right = (any_vocabulary.encode(part).ids.tolist() for part in (text[:cut], text[cut:]))
        assert left + right == ids


def test_a_unigram_chooses_among_equally_likely_tokenizations_as_in_the_complete_text():
    """Rounding decides between ## ### and ### ##, and it depends on the text before them in the same word."""
    scores = {"▁": -4.11, "#": -4.71, "##": -4.98, "###": -5.71, "1": -4.7, "6": -5.61, "8": -1.15, "\n": -3.33}
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *scores.items(), ("▁1", -9.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace()
    vocabulary = Vocabulary.from_tokenizer(tokenizer, size=10, name="ties")
    alone, in_text = (tokenizer.encode(text, add_special_tokens=False).tokens for text in ("\n#####", "168\n#####"))
    assert (alone[-2:], in_text[-2:]) == (["##", "###"], ["###", "##"])
    check(vocabulary, [bytes([byte]) for byte in b"168\n##### 168\n#####"])


@pytest.mark.parametrize("text", ["a b<|start of turn|>", "the <|start of turn", "x <|start of turn|> y"])
def test_a_special_token_with_spaces_in_it_is_found_byte_by_byte(vocabularies, text):
    check(vocabularies["special_with_spaces"], [bytes([byte]) for byte in text.encode()])


def test_a_token_that_strips_the_spaces_after_it_leaves_no_safe_cuts(tokenizer_folders):
    tokenizer = Tokenizer.from_file(str(tokenizer_folders.source / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("STOP", special=True, rstrip=True)])
    vocabulary = Vocabulary.from_tokenizer(tokenizer, roles={})
    check(vocabulary, [b"a STOP", b" ", b" b", b" c"])
    assert safe_cuts(vocabulary) is None


@pytest.mark.parametrize(
    "sentence",
    ["fo|xes| |12", "東|京は|日本|の首|都です|。", "\uff0c|カナ|\uff1a|한국", "a|b\n|c"],
    ids=["words", "stops", "commas", "lines"],
)
def test_only_the_text_after_the_last_safe_cut_is_encoded_again(vocabularies, encoded, sentence):
    """After 1,000 pieces, a piece costs no more characters than among the first 100."""
    tokenizer, costs = IncrementalTokenizer(vocabularies["byte_level"]), []
    safe_cuts(vocabularies["byte_level"])
    for _ in range(200):
        for piece in sentence.split("|"):
            encoded.clear()
            tokenizer.append(piece.encode())
            tokenizer.cover_candidates(*ALL_COVERS)
            costs.append(sum(encoded))
    assert max(costs[100:]) <= max(costs[:100]) <= 40 * len(sentence)  # one continuation for each letter
    assert len(tokenizer.tail) <= len(sentence)


# --- covers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=EXACT)
def exact_vocabulary(request, vocabularies) -> Vocabulary:
    return vocabularies[request.param]


def covers_of(vocabulary: Vocabulary, data: bytes) -> list[CoverCandidate]:
    """Return the covers of a text, each with the committed tokens in front."""
    tokenizer = IncrementalTokenizer(vocabulary)
    tokenizer.append(data)
    covers = tokenizer.cover_candidates(*ALL_COVERS)
    return [
        CoverCandidate((*tokenizer.committed_ids[len(vocabulary.bos_ids) :], *cover.ids), cover.pending)
        for cover in covers
    ]


def spelled(vocabulary: Vocabulary, cover: CoverCandidate) -> bytes:
    return b"".join(vocabulary.token_bytes[i] for i in cover.ids) + cover.pending


@given(data=beginnings())
@relaxed(120)
def test_a_cover_spells_the_text_up_to_its_pending_bytes(exact_vocabulary, data):
    covers = covers_of(exact_vocabulary, data)
    assert len({cover.ids for cover in covers}) == len(covers)
    assert all(spelled(exact_vocabulary, cover) == data for cover in covers)


@given(text=whole_texts, letter=st.sampled_from(string.ascii_lowercase))
@relaxed(80)
def test_the_tokens_before_a_following_or_continued_word_are_a_cover(exact_vocabulary, text, letter):
    data, known = text.encode(), {cover.ids for cover in covers_of(exact_vocabulary, text.encode())}
    continuation = letter if text[-1:].isalpha() else _CONTINUATION
    encoding = exact_vocabulary.encode(text + continuation)
    ends = np.append(encoding.starts[1:], len(data) + 1)
    assert tuple(encoding.ids[ends <= len(data)].tolist()) in known


@given(text=whole_texts, back=st.integers(0, 2))
@relaxed(80)
def test_the_tokens_without_the_last_ones_are_a_cover(exact_vocabulary, text, back):
    ids = exact_vocabulary.encode(text).ids.tolist()
    tokenizer = IncrementalTokenizer(exact_vocabulary)
    tokenizer.append(text.encode())
    tokenizer.cover_candidates(*ALL_COVERS)
    kept = max(len(tokenizer.committed_ids), len(ids) - back)  # committed tokens are never taken back
    assert tuple(ids[:kept]) in {cover.ids for cover in covers_of(exact_vocabulary, text.encode())}


@given(data=beginnings().filter(lambda data: data.decode(errors="ignore").encode() != data))
@relaxed(80)
def test_inside_a_character_a_token_begins_with_what_is_pending(exact_vocabulary, data):
    """Otherwise the source would have no prediction there, although its tokens spell every character."""
    healer = TokenHealer(exact_vocabulary, exact_vocabulary, BoundaryConfig())
    covers = covers_of(exact_vocabulary, data)
    assert any(not cover.pending or len(healer.prefix_range(cover.pending).ids) for cover in covers)


@given(character=st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), size=st.integers(1, 3))
@settings(max_examples=examples(200))
def test_the_completions_of_an_incomplete_character_begin_with_its_bytes(character, size):
    partial = character.encode()[: min(size, len(character.encode()) - 1)]
    completions = _completions(partial)
    assert completions
    assert all(len(completion) == 1 and completion.encode().startswith(partial) for completion in completions)


def test_without_alternatives_the_only_cover_is_the_encoding_of_the_text(exact_vocabulary):
    for text in FRAGMENTS:
        tokenizer = IncrementalTokenizer(exact_vocabulary)
        tokenizer.append(text.encode())
        (cover,) = tokenizer.cover_candidates()
        assert [*tokenizer.committed_ids, *cover.ids] == exact_vocabulary.encode(text).ids.tolist()
        assert cover.pending == b""


@pytest.mark.parametrize("text", ["", " ", "fox ", "fox  ", "\n\n", "é", "x 日", "The▁fox▁"])
@pytest.mark.parametrize("dropped", [0, 1])
def test_text_that_a_tokenizer_drops_or_changes_is_no_error(any_vocabulary, text, dropped):
    data = text.encode()[: max(0, len(text.encode()) - dropped)]
    tokenizer = IncrementalTokenizer(any_vocabulary)
    tokenizer.append(data)
    text_bytes = any_vocabulary.with_prefixes(data.decode(errors="ignore"), Place.BEGINNING).encode()
    text_bytes = text_bytes or (b" " if tokenizer.awaits_prefix_space else b"")
    text_bytes += data[len(data.decode(errors="ignore").encode()) :]
    assert all(text_bytes.endswith(cover.pending) for cover in tokenizer.cover_candidates(*ALL_COVERS))


@pytest.mark.real
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_real_tokenizers_on_adversarial_texts(name):
    vocabulary = resolve_vocabulary(name)
    assert safe_cuts(vocabulary)

    @given(parts=pieces())
    @settings(max_examples=examples(150))
    def run(parts):
        check(vocabulary, parts)

    run()
    text = "".join(FRAGMENTS).encode()
    check(vocabulary, [text[i : i + 1] for i in range(len(text))])


def packaged_tokenizers() -> dict[str, Callable[[], Vocabulary]]:
    """Return loaders of the benchmarks' real tokenizers, whose packages `make bench` installs."""
    path = Path(__file__).parents[3] / "benchmarks" / "real_tokenizers.py"
    spec = importlib.util.spec_from_file_location("real_tokenizers", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: tokenizer.load for name, tokenizer in module.REAL_TOKENIZERS.items()}


@pytest.mark.real
@pytest.mark.parametrize("name", packaged_tokenizers())
def test_packaged_tokenizers_on_adversarial_texts(name):
    try:
        vocabulary = packaged_tokenizers()[name]()
    except (SystemExit, ImportError) as error:
        pytest.skip(f"run make bench first: {error}")
    assert safe_cuts(vocabulary).search("fox fox")
    assert safe_cuts(vocabulary).search("fox\nfox")
    control = np.flatnonzero(vocabulary.kinds == TokenKind.CONTROL)[:1].tolist()  # some have no control token

    @given(parts=pieces())
    @settings(max_examples=examples(100))
    def run(parts):
        check(vocabulary, [p for part in parts for p in ([part] if isinstance(part, bytes) else control)])

    run()
