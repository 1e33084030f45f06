"""Source tokens by the target tokens they start with."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from vocabridge.alignment import Corpus, Prefix, TokenKind, Vocabulary
from vocabridge.alignment.builders.base import DUPLICATE
from vocabridge.alignment.builders.frequency import frequencies
from vocabridge.alignment.builders.prefix import _LEAST_SHARE, Beginnings


def vocabulary_of(*tokens: str) -> Vocabulary:
    return Vocabulary.from_tokenizer(Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [])))


def silent(done: int) -> None:
    """Tell nobody."""


def test_pairs_are_the_prefixes_and_every_source_token_has_its_frequency(pair):
    source, target = pair
    counts = Prefix().build(source, target).counts
    rows, columns = (axis.tolist() for axis in counts.tocoo().coords)
    found = {(y, w) for y, w in zip(rows, columns, strict=True) if target.lengths[y] and source.lengths[w]}
    starting = {
        (y, w)
        for y in target.usable.tolist()
        for w in source.usable.tolist()
        if source.token_bytes[w].startswith(target.token_bytes[y])
    }
    assert found <= starting
    # A column lacks a prefix only where it has next to no chance, and never all of them.
    assert {w for _, w in found} == {w for _, w in starting}
    often = frequencies(source, None, silent)
    columns = sorted({w for _, w in starting})
    canonical = sorted(target.canonical.values())
    np.testing.assert_allclose(counts[canonical].sum(axis=0)[columns], often[columns], rtol=1e-4)


def test_no_token_without_bytes_has_a_partner(pair):
    source, target = pair
    rows, columns = Prefix().build(source, target).counts.tocoo().coords
    for ids, vocabulary in ((rows, target), (columns, source)):
        other = set(ids[np.isin(vocabulary.kinds[ids], (TokenKind.CONTROL, TokenKind.UNUSED))].tolist())
        assert other <= set(vocabulary.roles.values())


def test_a_source_token_is_most_of_all_the_longest_target_token_it_starts_with():
    source = vocabulary_of("and", "andes")
    target = vocabulary_of("a", "n", "d", "e", "s", "and", "an", "es")
    weights = Prefix().build(source, target).column_weights.toarray()
    names = ["a", "n", "d", "e", "s", "and", "an", "es"]
    for column in weights.T:
        assert names[column.argmax()] == "and"
        assert column.max() > 0.8
        assert column[0] > 0
        assert column[6] > 0
    assert weights[[1, 2, 3, 4, 7]].sum() == 0


def test_a_row_weighs_source_tokens_by_how_often_they_occur(tmp_path):
    source, target = vocabulary_of("a", "b", "ab", "ac"), vocabulary_of("a")
    (tmp_path / "t").write_text("a" * 50)
    unread = Prefix().build(source, target).row_weights.toarray()[0]
    np.testing.assert_allclose(unread, np.array([1 / 3, 0, 1, 1 / 2]) / (1 / 3 + 1 + 1 / 2), rtol=1e-6)
    read = Prefix().build(source, target, Corpus.open([tmp_path / "t"])).row_weights.toarray()[0]
    assert read.argmax() == 0
    assert read[0] > 0.95


def test_an_id_that_never_occurs_takes_nothing_from_the_one_that_does():
    spm = models.BPE({"<unk>": 0, "<0x41>": 1, "A": 2}, [], byte_fallback=True, unk_token="<unk>")
    weights = Prefix().build(vocabulary_of("AB"), Vocabulary.from_tokenizer(Tokenizer(spm))).column_weights
    np.testing.assert_allclose(weights.toarray()[:, 0], [0, DUPLICATE, 1], rtol=1e-5)


words = st.text("ab", min_size=1, max_size=3)


@settings(max_examples=examples(60))
@given(tokens=st.dictionaries(words, st.integers(1, 9), min_size=1, max_size=4), text=words)
def test_shares_are_those_of_all_texts_drawn_token_by_token(tokens, text):
    vocabulary = vocabulary_of(*tokens)
    data = text.encode()
    often = np.array(list(tokens.values()), float)
    chance = dict(zip((token.encode() for token in tokens), often / often.sum(), strict=True))
    expected = np.zeros(len(data))
    # All texts of as many tokens as the data has bytes; those that start with it, by their first token.
    for drawn in itertools.product(chance, repeat=len(data)):
        if b"".join(drawn).startswith(data) and len(drawn[0]) <= len(data):
            expected[len(drawn[0]) - 1] += np.prod([chance[token] for token in drawn])
    shares = Beginnings.of(vocabulary, often).shares(data)
    if expected.sum():
        np.testing.assert_allclose(shares, expected / expected.sum(), rtol=1e-9)
    else:
        first = [data.startswith(token) for token in chance]
        assert sum(shares) == pytest.approx(float(any(first)))


def test_a_share_that_single_precision_loses_is_left_out():
    letters = "abcdefghijklmnopqrstuvwxyz"
    source, target = vocabulary_of(letters), vocabulary_of(letters, *letters)
    shares = Beginnings.of(target, frequencies(target, None, silent)).shares(letters.encode())
    assert 0 < shares[0] < _LEAST_SHARE
    assert Prefix().build(source, target).counts.nnz == 1
