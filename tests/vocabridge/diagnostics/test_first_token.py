"""Which token a target goes on with, and what may still change it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from effort import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.diagnostics.first_token import ELSEWHERE, FirstTokens

TEXTS = st.text(alphabet=" \nabehlst'1é🙂", max_size=8)


@pytest.fixture(scope="module")
def tokenizers(worlds) -> Callable[[str], Vocabulary]:
    """The worlds' vocabularies; a function, as a counterexample is printed with all that it was found with."""
    return lambda kind: worlds[kind].vocabulary


def next_token(vocabulary, text: str, before: list[int]) -> int:
    ids = vocabulary.encode(text).ids.tolist()
    return ids[len(before)] if ids[: len(before)] == before and len(ids) > len(before) else ELSEWHERE


@settings(max_examples=examples(100))
@example(whole="b", rest="a", at=1)  # `ba` is a token, and `baab` is cut `b|aab`
@given(whole=TEXTS.filter(bool), rest=TEXTS.filter(bool), at=st.integers(0, 7))
def test_it_is_the_next_token_of_the_encoding_and_where_it_is_closed_what_follows_changes_nothing(
    tokenizers, whole, rest, at
):
    for kind in ("byte-level", "across words", "byte fallback"):
        vocabulary = tokenizers(kind)
        before = vocabulary.encode(whole).ids.tolist()[:at]
        data = b"".join(vocabulary.token_bytes[i] for i in before)
        try:
            so_far = data.decode()
        except UnicodeDecodeError:
            continue
        first = FirstTokens(vocabulary)
        (token,), (is_open,) = first.of(first.front(data, before), [rest.encode()])
        assert token == next_token(vocabulary, so_far + rest, before)
        if not is_open:
            for more in map("".join, itertools.product(" \nabehlst'1é", repeat=2)):
                assert token == next_token(vocabulary, so_far + rest + more, before)


def test_a_text_that_the_target_would_have_cut_otherwise_is_none_of_those_asked_about(worlds):
    vocabulary = worlds["byte-level"].vocabulary
    the, b = (vocabulary.canonical[data] for data in (b" the", b" b"))
    first = FirstTokens(vocabulary)
    tokens, _ = first.of(first.front(b"b the", [vocabulary.canonical[b"b"], the]), [b"n a", b" b"])
    assert tokens.tolist() == [ELSEWHERE, b]
    tokens, _ = first.of(first.front(b"b", [vocabulary.canonical[b"b"]]), [b" the "])
    assert tokens.tolist() == [the]


def test_half_a_character_is_open_until_it_is_whole(worlds):
    vocabulary = worlds["byte fallback"].vocabulary
    first = FirstTokens(vocabulary)
    tokens, is_open = first.of(first.front(b"", []), ["é".encode()[:1], "é".encode(), b"\xff"])
    assert is_open.tolist()[0]
    assert tokens[1] == vocabulary.encode("é").ids[0]
    assert tokens[2] == ELSEWHERE


def test_a_target_that_changes_texts_is_refused_with_the_reason(vocabularies):
    with pytest.raises(VocabridgeError, match="lower-cases"):
        FirstTokens(vocabularies["wordpiece"])
