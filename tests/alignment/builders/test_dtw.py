"""Both methods of dynamic time warping equal the quadratic dynamic program."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import scipy.sparse as sp
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rapidfuzz.distance import Levenshtein
from tokenizers import Tokenizer, models

from vocabridge.alignment import DTW, Corpus, DTWCounts, TokenKind, Vocabulary
from vocabridge.alignment.builders.dtw_counts import costs, least_path, scaled

texts = st.text("abehnotux .,\n\té日👍0123", min_size=1, max_size=60)
few = settings(max_examples=examples(40))


def quadratic_path(cost: np.ndarray) -> list[tuple[int, int]]:
    """Find the warping path of least cost by its definition; of equal steps back diagonal, then up, then left."""
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    for i in range(n):
        for j in range(m):
            total[i + 1, j + 1] = cost[i, j] + min(total[i, j], total[i, j + 1], total[i + 1, j])
    i, j, path = n - 1, m - 1, [(n - 1, m - 1)]
    while (i, j) != (0, 0):
        steps = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        i, j = min(steps, key=lambda step: total[step[0] + 1, step[1] + 1])
        path.append((i, j))
    return path[::-1]


def quadratic_cost(a: str, b: str) -> float:
    """Compare two tokens as the released code does."""
    a, b = a.replace(" ", ""), b.replace(" ", "")
    distance = float(Levenshtein.distance(a, b))
    return distance * 0.1 if a in b or b in a else distance


def spans(text: str, vocabulary: Vocabulary) -> list[tuple[int, int, int]]:
    """Return id, start and end of each token that covers bytes."""
    encoding = vocabulary.encode(text)
    tokens = [(i, s) for i, s in zip(encoding.ids.tolist(), encoding.starts.tolist(), strict=True) if s >= 0]
    ends = [start for _, start in tokens[1:]] + [len(text.encode())]
    all_spans = [
        (i, s, min(e, s + len(vocabulary.token_bytes[i] or b""))) for (i, s), e in zip(tokens, ends, strict=False)
    ]
    return [span for span in all_spans if span[2] > span[1]]


def as_counts(
    builder: DTW | DTWCounts, source: Vocabulary, target: Vocabulary, text: str
) -> dict[tuple[int, int], int]:
    counts = builder.count_batch(source, target, [text])
    pairs = [(int(key // source.size), int(key % source.size)) for key in counts.keys]
    return dict(zip(pairs, counts.counts.tolist(), strict=True))


@settings(max_examples=examples(200))
@given(arrays.arrays(float, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4).map(float)))
def test_the_path_is_that_of_the_quadratic_program_including_ties(cost):
    assert least_path(cost) == quadratic_path(cost)


@settings(max_examples=examples(100))
@given(*[st.lists(st.text("ab c日", max_size=5), min_size=1, max_size=12)] * 2)
def test_costs_are_those_of_the_released_code(a, b):
    expected = [[quadratic_cost(x, y) for y in b] for x in a]
    bare = [[token.replace(" ", "") for token in tokens] for tokens in (a, b)]
    assert costs(*bare).tolist() == expected


@few
@given(text=texts)
@pytest.mark.parametrize("names", [("byte_level_bpe", "unigram"), ("sentencepiece_bpe", "wordpiece")])
def test_dtw_is_the_quadratic_program_with_shared_bytes_as_the_gain(vocabularies, names, text):
    source, target = (vocabularies[name] for name in names)
    y, w = spans(text, target), spans(text, source)
    expected: Counter[tuple[int, int]] = Counter()
    if y and w:
        shared = np.array([[max(0, min(a[2], b[2]) - max(a[1], b[1])) for b in w] for a in y])
        path = quadratic_path(-shared.astype(float))
        for i, j in path:
            expected[y[i][0], w[j][0]] += int(shared[i, j])
        # The path passes through every pair that overlaps.
        assert set(zip(*np.nonzero(shared), strict=True)) <= set(path)
    assert as_counts(DTW(), source, target, text) == {pair: n for pair, n in expected.items() if n}


@few
@given(text=texts)
def test_dtw_counts_are_those_of_the_quadratic_program(vocabularies, text):
    source, target = vocabularies["byte_level_bpe"], vocabularies["sentencepiece_bpe"]
    y, w = ([i for i in v.encode(text).ids.tolist() if v.token_bytes[i] is not None] for v in (target, source))
    a, b = ([v.token_bytes[i].decode("utf-8", "surrogateescape") for i in ids] for v, ids in ((target, y), (source, w)))
    path = quadratic_path(np.array([[quadratic_cost(x, z) for z in b] for x in a]))
    assert as_counts(DTWCounts(), source, target, text) == Counter((y[i], w[j]) for i, j in path)


def test_a_long_text_is_cut_where_both_tokenizers_start_a_token(vocabularies, text):
    source, target = vocabularies["byte_level_bpe"], vocabularies["sentencepiece_bpe"]
    cut, uncut = (as_counts(DTWCounts(passage), source, target, text * 4) for passage in (16, 10**6))
    assert sum(cut.values()) == pytest.approx(sum(uncut.values()), rel=0.1)
    for vocabulary, side in ((target, 0), (source, 1)):
        ids = vocabulary.encode(text * 4).ids
        present = set(ids[vocabulary.lengths[ids] > 0].tolist())
        assert {pair[side] for pair in cut} == {pair[side] for pair in uncut} == present


def dense_choice(counts: np.ndarray) -> np.ndarray:
    """Choose as the released code does, with dense arrays; pairs that never occur cannot be chosen."""
    seen = counts > 0
    means = np.where(seen, counts, 0).sum(axis=1, keepdims=True) / np.maximum(1, seen.sum(axis=1, keepdims=True))
    centered = np.where(seen, counts - means, np.nan)
    weights = np.full(counts.shape, -np.inf)
    for w in np.flatnonzero(seen.any(axis=0)):
        low, high = np.nanmin(centered[:, w]), np.nanmax(centered[:, w])
        weights[:, w] = np.where(seen[:, w], (centered[:, w] - low) / (high - low) if high > low else 1.0, -np.inf)
    chosen = np.zeros_like(counts)
    for y in np.flatnonzero(seen.any(axis=1)):
        chosen[y, weights[y].argmax()] = counts[y, weights[y].argmax()]
    return chosen


@settings(max_examples=examples(200))
@given(arrays.arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 9)))
def test_the_choice_is_that_of_the_dense_code_on_the_pairs_that_occur(vocabularies, counts):
    vocabulary = vocabularies["unigram"]
    chosen = DTWCounts()._finish(sp.csr_array(counts.astype(float)), vocabulary, vocabulary)
    assert chosen.toarray().tolist() == dense_choice(counts.astype(float)).tolist()


def test_column_scaling_gives_a_certain_pair_of_a_rare_token_almost_no_weight_but_it_is_kept():
    # Target token 0 is frequent; token 1 is rare, but always paired with source token 0.
    counts = sp.csr_array(np.array([[3000.0, 1000.0], [3.0, 0.0], [1.0, 3.0]]))
    rare = 2
    assert counts.data[rare] == 3
    assert scaled(counts)[rare] == pytest.approx(0.001, abs=2e-4)
    vocabulary = Vocabulary.from_tokenizer(Tokenizer(models.BPE({"a": 0, "b": 1}, [])))
    kept = DTWCounts()._finish(counts, vocabulary, vocabulary)
    assert kept[[1]].toarray().tolist() == [[3, 0]]


def test_a_row_of_dtw_holds_the_shares_of_the_tokens_bytes(tmp_path):
    long = Vocabulary.from_tokenizer(
        Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "aba": 3}, [("a", "b"), ("ab", "a")]))
    )
    short = Vocabulary.from_tokenizer(Tokenizer(models.BPE({"a": 0, "b": 1}, [])))
    (tmp_path / "t").write_text("abaa")  # aba a  against  a b a a
    rows = DTW().build(short, long, Corpus.open([tmp_path / "t"])).row_weights.toarray()
    np.testing.assert_allclose(rows, [[1, 0], [0, 0], [0, 0], [2 / 3, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize("builder", [DTW(), DTWCounts()], ids=lambda builder: builder.method)
def test_neither_has_rows_for_tokens_that_stand_for_no_bytes(pair, tmp_path, text, builder):
    source, target = pair
    (tmp_path / "t").write_text(text + "<s> </s>", encoding="utf-8")
    rows, columns = builder.build(source, target, Corpus.open([tmp_path / "t"])).counts.tocoo().coords
    assert len(rows) > 20
    for ids, vocabulary in ((rows, target), (columns, source)):
        other = set(ids[np.isin(vocabulary.kinds[ids], (TokenKind.CONTROL, TokenKind.UNUSED))].tolist())
        assert other <= set(vocabulary.roles.values())
