"""Which token comes first in the rest of a text, and whether what follows may change it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from effort import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.diagnostics.first_token import INCOMPATIBLE, FirstTokenFinder

TEXTS = st.text(alphabet=" \nabehlst'1é🙂", max_size=8)


@pytest.fixture(scope="module")
def tokenizers(worlds) -> Callable[[str], Vocabulary]:
    """Return the worlds' vocabularies by kind, as a function because hypothesis prints the arguments of a failure."""
    return lambda kind: worlds[kind].vocabulary


def next_token(vocabulary, text: str, prefix_ids: list[int]) -> int:
    ids, size = vocabulary.encode(text).ids.tolist(), len(prefix_ids)
    return ids[size] if ids[:size] == prefix_ids and len(ids) > size else INCOMPATIBLE


@settings(max_examples=examples(100))
@example(text="b", rest="a", size=1)  # `ba` is a token, and `baab` is cut `b|aab`
@given(text=TEXTS.filter(bool), rest=TEXTS.filter(bool), size=st.integers(0, 7))
def test_the_first_token_is_that_of_the_encoding_and_text_that_follows_changes_it_only_if_it_is_open(
    tokenizers, text, rest, size
):
    for kind in ("byte-level", "across words", "byte fallback"):
        vocabulary = tokenizers(kind)
        prefix_ids = vocabulary.encode(text).ids.tolist()[:size]
        data = b"".join(vocabulary.token_bytes[i] for i in prefix_ids)
        try:
            prefix = data.decode()
        except UnicodeDecodeError:
            continue
        finder = FirstTokenFinder(vocabulary)
        (token,), (is_open,) = finder.find(finder.prefix(data, prefix_ids), [rest.encode()])
        assert token == next_token(vocabulary, prefix + rest, prefix_ids)
        if not is_open:
            for continuation in map("".join, itertools.product(" \nabehlst'1é", repeat=2)):
                assert token == next_token(vocabulary, prefix + rest + continuation, prefix_ids)


def test_a_rest_with_which_the_target_would_have_cut_the_prefix_otherwise_is_incompatible(worlds):
    vocabulary = worlds["byte-level"].vocabulary
    the, b = (vocabulary.canonical[data] for data in (b" the", b" b"))
    finder = FirstTokenFinder(vocabulary)
    tokens, _ = finder.find(finder.prefix(b"b the", [vocabulary.canonical[b"b"], the]), [b"n a", b" b"])
    assert tokens.tolist() == [INCOMPATIBLE, b]
    tokens, _ = finder.find(finder.prefix(b"b", [vocabulary.canonical[b"b"]]), [b" the "])
    assert tokens.tolist() == [the]


def test_a_partial_character_is_open_until_it_is_complete(worlds):
    vocabulary = worlds["byte fallback"].vocabulary
    finder = FirstTokenFinder(vocabulary)
    tokens, is_open = finder.find(finder.prefix(b"", []), ["é".encode()[:1], "é".encode(), b"\xff"])
    assert is_open.tolist()[0]
    assert tokens[1] == vocabulary.encode("é").ids[0]
    assert tokens[2] == INCOMPATIBLE


def test_a_target_that_changes_texts_is_refused_with_the_reason(vocabularies):
    with pytest.raises(VocabridgeError, match="lower-cases"):
        FirstTokenFinder(vocabularies["wordpiece"])
