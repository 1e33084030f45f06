"""Which tokens may follow which."""

from __future__ import annotations

import numpy as np
import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabridge.alignment import Vocabulary
from vocabridge.byte_level.cover_validity import INVALID, VALID, CoverValidity
from vocabridge.models.loading import resolve_vocabulary

TEXTS = [
    "Prices: $1,234.56 (up 3.5%);  it's\n\n\tdone...\n  if x==1:\n        return   y  # ok\r\n\r\nend",
    "Die Straße — „Brücke“; naïve déjà-vu. Привет, мир! 東京は日本の首都です。🙂🎉 ½ x² ﷽ 1234567890123",
    "https://a.b/c?d=e&f=%20 <table><tr></tr>   \n \n\n   we'll they've CamelCaseHTML \u200b\u00a0 a",
]


def invalid(validity: CoverValidity, vocabulary: Vocabulary, text: str) -> list[int]:
    """Return the positions in the encoding of a text at which a token counts as invalid after those before it."""
    index_of = {int(token): index for index, token in enumerate(validity.lexicon.ids)}
    ids = vocabulary.encode(text).ids.tolist()
    positions = []
    for n, token in enumerate(ids):
        index = index_of[token]
        for (low, high), context in validity.contexts(tuple(ids[:n])):
            if low <= index < high:
                validity.check(context, np.array([index]))
                positions += [n] if validity.status(context)[index] == INVALID else []
    return positions


@settings(max_examples=examples(40))
@given(text=st.text(alphabet=" \n\tabehlst'1é🙂", max_size=14))
def test_every_beginning_of_an_encoding_is_valid(worlds, text):
    for kind in ("byte-level", "across words", "byte fallback"):
        vocabulary = worlds[kind].vocabulary
        assert invalid(CoverValidity(vocabulary), vocabulary, text) == []


@pytest.mark.real
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_every_beginning_of_a_real_encoding_is_valid(name):
    vocabulary = resolve_vocabulary(name)
    validity = CoverValidity(vocabulary)
    for text in TEXTS:
        assert invalid(validity, vocabulary, text) == []


def test_of_ids_with_the_same_bytes_only_the_one_that_the_tokenizer_writes_is_valid(worlds):
    vocabulary = worlds["byte fallback"].vocabulary
    validity = CoverValidity(vocabulary)
    indices = [index for index, data in enumerate(validity.lexicon.tokens) if data == b"a"]
    validity.check((), np.array(indices))
    statuses = dict(zip(validity.lexicon.ids[indices].tolist(), validity.status(())[indices].tolist(), strict=True))
    assert len(statuses) == 2
    assert [token for token, status in statuses.items() if status == VALID] == [vocabulary.canonical[b"a"]]
