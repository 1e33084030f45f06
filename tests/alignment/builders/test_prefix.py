"""Source tokens are aligned with the target tokens that are their prefixes."""

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
from vocabridge.alignment.builders.prefix import _LEAST_SHARE, FirstTokens


def vocabulary_of(*tokens: str) -> Vocabulary:
    return Vocabulary.from_tokenizer(Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [])))


def no_report(done: int) -> None:
    """Do nothing; the progress callback of these tests."""


def test_pairs_are_prefixes_and_every_column_sums_to_the_frequency_of_its_token(pair):
    source, target = pair
    counts = Prefix().build(source, target).counts
    rows, columns = (axis.tolist() for axis in counts.tocoo().coords)
    pairs = {(y, w) for y, w in zip(rows, columns, strict=True) if target.lengths[y] and source.lengths[w]}
    prefixes = {
        (y, w)
        for y in target.usable.tolist()
        for w in source.usable.tolist()
        if source.token_bytes[w].startswith(target.token_bytes[y])
    }
    assert pairs <= prefixes
    # A column lacks a prefix only if its probability is negligible, and never all prefixes.
    assert {w for _, w in pairs} == {w for _, w in prefixes}
    frequency = frequencies(source, None, no_report)
    columns = sorted({w for _, w in prefixes})
    canonical = sorted(target.canonical.values())
    np.testing.assert_allclose(counts[canonical].sum(axis=0)[columns], frequency[columns], rtol=1e-4)


def test_no_token_without_bytes_has_a_partner(pair):
    source, target = pair
    rows, columns = Prefix().build(source, target).counts.tocoo().coords
    for ids, vocabulary in ((rows, target), (columns, source)):
        other = set(ids[np.isin(vocabulary.kinds[ids], (TokenKind.CONTROL, TokenKind.UNUSED))].tolist())
        assert other <= set(vocabulary.roles.values())


def test_a_column_gives_most_weight_to_the_longest_prefix():
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


def test_a_row_weights_source_tokens_by_their_frequency(tmp_path):
    source, target = vocabulary_of("a", "b", "ab", "ac"), vocabulary_of("a")
    (tmp_path / "t").write_text("a" * 50)
    without_text = Prefix().build(source, target).row_weights.toarray()[0]
    np.testing.assert_allclose(without_text, np.array([1 / 3, 0, 1, 1 / 2]) / (1 / 3 + 1 + 1 / 2), rtol=1e-6)
    with_text = Prefix().build(source, target, Corpus.open([tmp_path / "t"])).row_weights.toarray()[0]
    assert with_text.argmax() == 0
    assert with_text[0] > 0.95


def test_an_id_that_never_occurs_takes_next_to_no_weight():
    spm = models.BPE({"<unk>": 0, "<0x41>": 1, "A": 2}, [], byte_fallback=True, unk_token="<unk>")
    weights = Prefix().build(vocabulary_of("AB"), Vocabulary.from_tokenizer(Tokenizer(spm))).column_weights
    np.testing.assert_allclose(weights.toarray()[:, 0], [0, DUPLICATE, 1], rtol=1e-5)


words = st.text("ab", min_size=1, max_size=3)


@settings(max_examples=examples(60))
@given(tokens=st.dictionaries(words, st.integers(1, 9), min_size=1, max_size=4), text=words)
def test_shares_are_those_of_all_texts_drawn_token_by_token(tokens, text):
    vocabulary = vocabulary_of(*tokens)
    data = text.encode()
    frequency = np.array(list(tokens.values()), float)
    probability = dict(zip((token.encode() for token in tokens), frequency / frequency.sum(), strict=True))
    expected = np.zeros(len(data))
    # Draw all texts of as many tokens as the data has bytes, and sum those that start with the data by first token.
    for drawn in itertools.product(probability, repeat=len(data)):
        if b"".join(drawn).startswith(data) and len(drawn[0]) <= len(data):
            expected[len(drawn[0]) - 1] += np.prod([probability[token] for token in drawn])
    shares = FirstTokens.of(vocabulary, frequency).shares(data)
    if expected.sum():
        np.testing.assert_allclose(shares, expected / expected.sum(), rtol=1e-9)
    else:
        first = [data.startswith(token) for token in probability]
        assert sum(shares) == pytest.approx(float(any(first)))


def test_a_share_below_single_precision_is_dropped():
    letters = "abcdefghijklmnopqrstuvwxyz"
    source, target = vocabulary_of(letters), vocabulary_of(letters, *letters)
    shares = FirstTokens.of(target, frequencies(target, None, no_report)).shares(letters.encode())
    assert 0 < shares[0] < _LEAST_SHARE
    assert Prefix().build(source, target).counts.nnz == 1
