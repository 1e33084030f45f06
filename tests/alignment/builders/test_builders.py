"""The invariants of every builder, on every pair of kinds of tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
from effort import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from vocabridge.alignment import (
    Alignment,
    Combined,
    Cooccurrence,
    Corpus,
    DTWCounts,
    IdenticalBytes,
    Retokenize,
    TokenKind,
    VocabridgeError,
    Vocabulary,
    align,
)
from vocabridge.alignment.builders.base import DUPLICATE
from vocabridge.alignment.builders.cooccurrence import count_starts
from vocabridge.alignment.counting.pair_counts import PairCounts

relaxed = settings(max_examples=examples(15), suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def corpus(tmp_path, text) -> Corpus:
    (tmp_path / "corpus.txt").write_text(text * 3, encoding="utf-8")
    return Corpus.open([tmp_path / "corpus.txt"])


def check(alignment: Alignment, source: Vocabulary, target: Vocabulary) -> None:
    """Check the invariants of every alignment."""
    counts = alignment.counts
    assert counts.shape == (target.size, source.size)
    assert counts.has_canonical_format
    assert (counts.data > 0).all()
    for weights, axis in ((alignment.row_weights, 1), (alignment.column_weights, 0)):
        sums = weights.sum(axis=axis)
        has_entries = np.asarray(counts.sum(axis=axis)) > 0
        np.testing.assert_allclose(sums, has_entries.astype(float), atol=1e-5)
    rows, columns = counts.tocoo().coords
    for role in ("bos", "eos"):
        y, w = target.roles[role], source.roles[role]
        assert columns[rows == y].tolist() == [w]
        assert rows[columns == w].tolist() == [y]
    unknown = (target.roles.get("unk"), source.roles.get("unk"))
    for ids, vocabulary, unk in ((rows, target, unknown[0]), (columns, source, unknown[1])):
        control = np.isin(vocabulary.kinds[ids], (TokenKind.CONTROL, TokenKind.UNUSED))
        expected = {vocabulary.roles["bos"], vocabulary.roles["eos"], unk}
        assert set(ids[control].tolist()) <= expected


def check_total(alignment: Alignment, source: Vocabulary, target: Vocabulary) -> None:
    """Check that every token that stands for bytes has a partner."""
    assert (np.diff(alignment.counts.indptr)[target.usable] > 0).all()
    assert np.isin(source.usable, alignment.counts.indices).all()


def oracle(source: Vocabulary, target: Vocabulary) -> set[tuple[int, int]]:
    """Find all pairs of equal bytes by comparing every pair."""
    return {
        (y, w)
        for y in range(target.size)
        for w in range(source.size)
        if target.token_bytes[y] is not None and target.token_bytes[y] == source.token_bytes[w]
    }


def pairs_of(alignment: Alignment, source: Vocabulary, target: Vocabulary) -> set[tuple[int, int]]:
    """Return the pairs of tokens, except those that are paired by role."""
    rows, columns = alignment.counts.tocoo().coords
    pinned = {(target.roles[role], source.roles[role]) for role in target.roles.keys() & source.roles.keys()}
    return set(zip(rows.tolist(), columns.tolist(), strict=True)) - pinned


def test_identical_bytes_finds_every_pair_of_equal_bytes_and_no_other(pair):
    alignment = IdenticalBytes().build(*pair)
    check(alignment, *pair)
    assert pairs_of(alignment, *pair) == oracle(*pair)


def test_of_two_ids_with_the_same_bytes_the_one_that_occurs_has_the_weight():
    spm = models.BPE({"<unk>": 0, "<0x41>": 1, "A": 2, "b": 3}, [], byte_fallback=True, unk_token="<unk>")
    duplicated = Vocabulary.from_tokenizer(Tokenizer(spm))
    single = Vocabulary.from_tokenizer(Tokenizer(models.BPE({"A": 0}, [])))
    assert IdenticalBytes().build(single, duplicated).counts.toarray().ravel().tolist() == [0, DUPLICATE, 1, 0]
    assert IdenticalBytes().build(duplicated, single).counts.toarray().ravel().tolist() == [0, DUPLICATE, 1, 0]
    for builder in (Retokenize(), Combined()):
        weights = builder.build(single, duplicated).column_weights.toarray().ravel()
        assert weights[1] > 0
        assert weights[2] > 0.99999


def test_retokenize_gives_every_token_a_partner(pair):
    alignment = Retokenize().build(*pair)
    check(alignment, *pair)
    check_total(alignment, *pair)


def test_retokenize_counts_first_pieces_in_both_directions():
    long = Vocabulary.from_tokenizer(Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])))
    short = Vocabulary.from_tokenizer(Tokenizer(models.BPE({"a": 0, "b": 1}, [])))
    expected = [[2, 0], [0, 2], [1, 0]]
    assert Retokenize().build(source=short, target=long).counts.toarray().tolist() == expected
    assert Retokenize().build(source=long, target=short).counts.T.toarray().tolist() == expected


def test_cooccurrence_counts_the_tokens_that_start_together(tmp_path):
    long = Vocabulary.from_tokenizer(Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])))
    short = Vocabulary.from_tokenizer(Tokenizer(models.BPE({"a": 0, "b": 1}, [])))
    (tmp_path / "t").write_text("abba")  # ab b a  against  a b b a
    counts = Cooccurrence().build(short, long, Corpus.open([tmp_path / "t"])).counts
    assert counts.toarray().tolist() == [[1, 0], [0, 1], [1, 0]]


def test_cooccurrence_agrees_with_counting_by_hand(pair, corpus):
    source, target = pair
    alignment = Cooccurrence().build(source, target, corpus)
    check(alignment, source, target)
    by_hand: dict[tuple[int, int], int] = {}
    for text in corpus.chunks():
        y, w = target.encode(text), source.encode(text)
        sources = {s: i for i, s in zip(w.ids.tolist(), w.starts.tolist(), strict=True) if s >= 0}
        for i, start in zip(y.ids.tolist(), y.starts.tolist(), strict=True):
            j = sources.get(start) if start >= 0 else None
            if j is not None and TokenKind.CONTROL not in (target.kinds[i], source.kinds[j]):
                by_hand[i, j] = by_hand.get((i, j), 0) + 1
    rows, columns = alignment.counts.tocoo().coords
    entries = zip(rows.tolist(), columns.tolist(), alignment.counts.data.tolist(), strict=True)
    counts = {(i, j): n for i, j, n in entries}
    assert {pair: n for pair, n in counts.items() if pair in by_hand} == by_hand
    roles = target.roles.keys() & source.roles.keys()
    assert set(counts) - set(by_hand) == {(target.roles[role], source.roles[role]) for role in roles}


@relaxed
@given(texts=st.lists(st.text("ab é日1 \n", min_size=1, max_size=80), min_size=2, max_size=4))
def test_counts_of_parts_add_up_to_the_counts_of_the_whole(vocabularies, texts):
    source, target = vocabularies["byte_level_bpe"], vocabularies["sentencepiece_bpe"]
    together = count_starts(source, target, texts)
    parts = sum((count_starts(source, target, [text]) for text in texts), PairCounts())
    assert together.keys.tolist() == parts.keys.tolist()
    assert together.counts.tolist() == parts.counts.tolist()


def test_the_default_covers_every_token_with_and_without_text(pair, corpus):
    for text in (None, corpus):
        alignment = Combined().build(*pair, text)
        check(alignment, *pair)
        check_total(alignment, *pair)


@relaxed
@given(text=st.text(min_size=1, max_size=200))
def test_the_default_covers_every_token_for_any_text(vocabularies, tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "t"
    path.write_bytes(text.encode(errors="ignore") or b"x")
    pair = vocabularies["unigram"], vocabularies["byte_level_bpe"]
    check_total(Combined().build(*pair, Corpus.open([path])), *pair)


def test_the_prior_gets_as_much_mass_in_a_column_as_the_token_has_distinct_partners(vocabularies, corpus):
    source, target = vocabularies["byte_level_bpe"], vocabularies["sentencepiece_bpe"]
    pinned = [[vocabulary.roles[role] for role in ("bos", "eos")] for vocabulary in (target, source)]
    default, counts, prior = (
        np.delete(np.delete(built.counts.toarray(), pinned[0], axis=0), pinned[1], axis=1)
        for built in (
            Combined().build(source, target, corpus),
            Cooccurrence().build(source, target, corpus),
            Retokenize().build(source, target),
        )
    )
    seen = (counts > 0).sum(axis=0)
    mass = prior.sum(axis=0)
    expected = np.where(seen > 0, np.minimum(seen, mass), mass)
    assert (seen > 0).any()
    assert (seen == 0).any()
    assert (default - counts).sum(axis=0) == pytest.approx(expected, rel=1e-5)
    assert (default - counts) * mass == pytest.approx(prior * expected, rel=1e-4, abs=1e-4)


def test_a_token_that_is_both_bos_and_eos_is_paired_as_eos(vocabularies):
    separate = vocabularies["unigram"]
    tokenizer = vocabularies["byte_level_bpe"].tokenizer
    shared = Vocabulary.from_tokenizer(tokenizer, roles={"bos": 1, "eos": 1})
    counts = IdenticalBytes().build(shared, separate).counts
    assert counts[separate.roles["eos"], 1] == 1
    assert counts[separate.roles["bos"], 1] == 0


def test_progress_ends_at_the_total(vocabularies, corpus):
    reported: list[tuple[int, int]] = []
    pair = vocabularies["unigram"], vocabularies["byte_level_bpe"]
    Combined().build(*pair, corpus, lambda done, total: reported.append((done, total)))
    assert reported[-1] == (corpus.bytes, corpus.bytes)
    assert all(0 < done <= total for done, total in reported)


def test_align_takes_names_paths_and_builders(vocabularies, tmp_path, corpus, text):
    source, target = vocabularies["unigram"], vocabularies["byte_level_bpe"]
    source.tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert align(tmp_path / "tokenizer.json", target).source.fingerprint != ""
    assert align(source, target, corpus=tmp_path / "corpus.txt").corpus == corpus.card
    assert align(source, target, method=DTWCounts(passage=9), corpus=corpus).parameters == {"passage": 9}
    uncached = align(source, target, method="identical-bytes", cache=False)
    assert (uncached.counts != align(source, target, method="identical-bytes").counts).nnz == 0


@pytest.mark.parametrize(
    ("method", "given_corpus", "expected"),
    [
        ("fuzzy", False, "no method 'fuzzy'; choose one of default, identical-bytes, retokenize, cooccurrence"),
        ("cooccurrence", False, "cooccurrence counts on text; give it a corpus"),
        ("identical-bytes", True, "identical-bytes reads no text; leave the corpus out"),
    ],
)
def test_an_unknown_method_and_a_missing_or_unused_corpus_are_errors(
    vocabularies, corpus, method, given_corpus, expected
):
    pair = vocabularies["unigram"], vocabularies["byte_level_bpe"]
    with pytest.raises(VocabridgeError, match=expected):
        align(*pair, method=method, corpus=corpus if given_corpus else None)
