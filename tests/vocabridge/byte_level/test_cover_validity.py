"""Which tokens may follow which."""

from __future__ import annotations

import numpy as np
import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabridge.alignment import Vocabulary
from vocabridge.byte_level.cover_validity import INVALID, VALID, Following
from vocabridge.models.loading import resolve_vocabulary

TEXTS = [
    "Prices: $1,234.56 (up 3.5%);  it's\n\n\tdone...\n  if x==1:\n        return   y  # ok\r\n\r\nend",
    "Die Straße — „Brücke“; naïve déjà-vu. Привет, мир! 東京は日本の首都です。🙂🎉 ½ x² ﷽ 1234567890123",
    "https://a.b/c?d=e&f=%20 <table><tr></tr>   \n \n\n   we'll they've CamelCaseHTML \u200b\u00a0 a",
]


def invalid(following: Following, vocabulary: Vocabulary, text: str) -> list[int]:
    """The places of the tokens of a text that are held for invalid behind those before them."""
    place = {int(i): at for at, i in enumerate(following.lexicon.ids)}
    ids = vocabulary.encode(text).ids.tolist()
    found = []
    for n, i in enumerate(ids):
        for (low, high), context in following.parts(tuple(ids[:n])):
            if low <= place[i] < high:
                following.judge(context, np.array([place[i]]))
                found += [n] if following.known(context)[place[i]] == INVALID else []
    return found


@settings(max_examples=examples(40))
@given(text=st.text(alphabet=" \n\tabehlst'1é🙂", max_size=14))
def test_every_beginning_of_an_encoding_is_valid(worlds, text):
    for kind in ("byte-level", "across words", "byte fallback"):
        vocabulary = worlds[kind].vocabulary
        assert invalid(Following(vocabulary), vocabulary, text) == []


@pytest.mark.real
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_every_beginning_of_a_real_encoding_is_valid(name):
    vocabulary = resolve_vocabulary(name)
    following = Following(vocabulary)
    for text in TEXTS:
        assert invalid(following, vocabulary, text) == []


def test_of_ids_with_the_same_bytes_the_one_that_is_written_is_valid(worlds):
    vocabulary = worlds["byte fallback"].vocabulary
    following = Following(vocabulary)
    at = [i for i, data in enumerate(following.lexicon.tokens) if data == b"a"]
    following.judge((), np.array(at))
    verdicts = dict(zip(following.lexicon.ids[at].tolist(), following.known(())[at].tolist(), strict=True))
    assert len(verdicts) == 2
    assert [i for i, verdict in verdicts.items() if verdict == VALID] == [vocabulary.canonical[b"a"]]
