"""The reader's ids equal those of the whole text from scratch, after every piece, whatever the text."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from vocabridge.alignment import Vocabulary
from vocabridge.models import resolve_vocabulary
from vocabridge.reader import Reader, begin_tokens, has_safe_cuts

FRAGMENTS = [
    "The quick brown fox", "fox", " fox", " the dogs", "a b", "x1 2", "12345", " 345", "a", "b", "Z9", "İ", "ß",
    " ", "  ", "     ", "\t", "\n", "\n\n", " \n ", "\r\n", "\u00a0", "\u200b", "\u3000",
    "def count(words):\n    return", "\t\tif x:\n", "_id", "'s", "#### 168\n", "24*7=168", "(a b)", ".", ", ",
    "東京は日本", "首", "한국", "мир", "naïve", "e\u0301", " \u0301", "a\u0301 ", "ﬁ", "½ a", "\u1100\u1161",
    "🙂", "👩‍👩‍👧", "👍🏽", "🇩🇪", "▁", "Ġ", "<0x41>", "<|end|>", "<|start of turn|>", "<|start of ", "turn|>", "<unk>",
]  # fmt: skip
BROKEN = [b"\xff", b"\xc3", b"\xf0\x9f", b"\x80", b"\xe6\x9d", b"\xed\xa0\x80", b"\xc0\xaf", b"\x00"]

texts = st.lists(
    st.one_of(
        st.sampled_from(FRAGMENTS).map(str.encode),
        st.sampled_from(BROKEN),
        st.text(max_size=6).map(str.encode),
        st.binary(max_size=4),
    ),
    max_size=20,
).map(b"".join)


@st.composite
def pieces(draw: st.DrawFn) -> list[bytes]:
    """A text cut anywhere, inside characters too; some of the pieces empty."""
    data = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=30)))
    if draw(st.booleans()):
        cuts = list(range(len(data) + 1))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def check(vocabulary, parts):
    reader = Reader(vocabulary)
    decoder, text = codecs.getincrementaldecoder("utf-8")("replace"), ""
    for piece in parts:
        before = list(reader.ids)
        kept = reader.push(piece)
        text += decoder.decode(piece)
        assert reader.ids == vocabulary.encode(text).ids.tolist()
        assert before[:kept] == reader.ids[:kept]
        assert kept <= len(before)
        assert reader.pending == bool(decoder.getstate()[0])


@given(parts=pieces())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ids_are_those_from_scratch_after_every_piece(any_vocabulary, parts):
    check(any_vocabulary, parts)


@given(parts=pieces(), more=pieces())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_copy_reads_on_by_itself(any_vocabulary, parts, more):
    reader, alone = Reader(any_vocabulary), Reader(any_vocabulary)
    for piece in parts:
        reader.push(piece)
        alone.push(piece)
    copy = reader.copy()
    for piece in more:
        copy.push(piece)
    assert reader.ids == alone.ids
    assert reader.pending == alone.pending
    for piece in more:
        reader.push(piece)
    assert copy.ids == reader.ids


def test_which_kinds_have_safe_cuts(vocabularies):
    safe = {kind for kind, vocabulary in vocabularies.items() if has_safe_cuts(vocabulary)}
    assert {"byte_level"} <= safe
    assert not safe & {"no_safe_cuts", "special_with_spaces"}


@pytest.mark.parametrize("text", ["a b<|start of turn|>", "the <|start of turn", "x <|start of turn|> y"])
def test_a_special_token_with_spaces_in_it_is_found_byte_by_byte(vocabularies, text):
    check(vocabularies["special_with_spaces"], [bytes([byte]) for byte in text.encode()])


def test_a_token_that_swallows_the_spaces_behind_it_leaves_no_safe_cuts(tokenizer_folders):
    tokenizer = Tokenizer.from_file(str(tokenizer_folders.source / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("STOP", special=True, rstrip=True)])
    vocabulary = Vocabulary.from_tokenizer(tokenizer, roles={})
    check(vocabulary, [b"a STOP", b" ", b" b", b" c"])
    assert not has_safe_cuts(vocabulary)


def test_only_the_text_behind_the_last_safe_cut_is_read_again(vocabularies):
    vocabulary = vocabularies["byte_level"]
    reader = Reader(vocabulary)
    longest = 0
    for _ in range(200):
        for piece in (b" fo", b"xes", b" ", b"12"):
            before = len(reader.ids)
            longest = max(longest, before - reader.push(piece))
    assert longest <= 4
    assert len(reader._tail) < 20


def test_the_begin_token_is_put_in_front_only_where_the_model_expects_it(loaded):
    assert begin_tokens(loaded["source"].vocabulary) == []
    assert begin_tokens(loaded["target"].vocabulary) == [0]


@pytest.mark.real
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_real_tokenizers_on_adversarial_texts(name):
    vocabulary = resolve_vocabulary(name)
    assert has_safe_cuts(vocabulary)

    @given(parts=pieces())
    @settings(max_examples=150, deadline=None)
    def run(parts):
        check(vocabulary, parts)

    run()
    text = "".join(FRAGMENTS).encode()
    check(vocabulary, [text[i : i + 1] for i in range(len(text))])
