"""Look-ahead splits a source token's mass by the equation of its module, and never makes or loses any."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabridge.alignment import Alignment, Vocabulary, align
from vocabridge.score_look_ahead import FirstTokens, LookAhead, Step

SOURCE_SIZE, TARGET_SIZE = 265, 263


def look_ahead(alignment: Alignment, source: Vocabulary, target: Vocabulary) -> LookAhead:
    return LookAhead(alignment, source, target, FirstTokens(target))


def with_columns(tiny: dict[str, Vocabulary], columns: dict[bytes, dict[bytes, float]]) -> Alignment:
    """An alignment of the tiny vocabularies with these columns, and the others as re-tokenisation has them."""
    source, target = tiny["source"], tiny["target"]
    alignment = align(source, target, method="retokenize", cache=False)
    counts = alignment.counts.tolil()
    for w, column in columns.items():
        counts[:, [source.canonical[w]]] = 0
        for y, weight in column.items():
            counts[target.canonical[y], source.canonical[w]] = weight
    counts = sp.csr_array(counts.tocsr())
    counts.eliminate_zeros()
    return dataclasses.replace(alignment, counts=counts)


def log(probabilities: dict[int, float]) -> np.ndarray:
    """Natural log-probabilities, (|S|,), of these tokens and no other."""
    p = np.zeros(SOURCE_SIZE)
    for token, value in probabilities.items():
        p[token] = value
    with np.errstate(divide="ignore"):
        return np.log(p).astype(np.float32)


THE = {b"t": 0.2, b"th": 0.3, b"the": 0.5}


def test_by_hand_the_text_behind_a_token_decides_between_longer_and_shorter_ones(tiny):
    """Behind "t" the source says "h", "he" or "z": "th" may become "the" or not, as C has it, and "tz" is "t"."""
    source, target = tiny["source"], tiny["target"]
    ahead = look_ahead(with_columns(tiny, {b"t": THE}), source, target)
    said = log({source.canonical[b"h"]: 0.5, source.canonical[b"he"]: 0.25, source.canonical[b"z"]: 0.25})
    w = source.canonical[b"t"]
    found = {y: ahead.probability(target.canonical[y], w, b"t", [(said, w)]) for y in THE}
    assert found == pytest.approx({b"t": 0.25, b"th": 0.5 * 3 / 8, b"the": 0.5 * 5 / 8 + 0.25}, abs=1e-6)


def test_by_hand_where_the_text_goes_on_the_source_is_asked_again(tiny):
    """As above; and behind "th" it says "e" to 3/4, so that there is nothing left to guess."""
    source, target = tiny["source"], tiny["target"]
    ahead = look_ahead(with_columns(tiny, {b"t": THE}), source, target)
    w, h = source.canonical[b"t"], source.canonical[b"h"]
    said = log({h: 0.5, source.canonical[b"he"]: 0.25, source.canonical[b"z"]: 0.25})
    behind = log({source.canonical[b"e"]: 0.75, source.canonical[b"z"]: 0.25})
    found = {y: ahead.probability(target.canonical[y], w, b"t", [(said, h), (behind, h)]) for y in THE}
    assert found == pytest.approx({b"t": 0.25, b"th": 0.5 * 0.25, b"the": 0.5 * 0.75 + 0.25}, abs=1e-6)


def test_of_what_is_not_looked_at_the_mass_is_shared_as_the_column_has_it(tiny, monkeypatch):
    """A source that says nothing in particular: 64 of its 265 tokens are looked at, each by its own cut."""
    monkeypatch.setattr("vocabridge.score_look_ahead._LIKELY", 64)
    source, target = tiny["source"], tiny["target"]
    ahead = look_ahead(with_columns(tiny, {b"t": THE}), source, target)
    p = np.full(SOURCE_SIZE, 0.5 / (SOURCE_SIZE - 64))
    likely = [ord("z"), *range(128, 191)]
    p[likely] = 0.5 / 64
    w = source.canonical[b"t"]
    found = {y: ahead.probability(target.canonical[y], w, b"t", [(np.log(p), -1)]) for y in THE}
    assert found == pytest.approx({y: 0.5 * (y == b"t") + 0.5 * weight for y, weight in THE.items()}, abs=1e-6)


# --- any columns, any text --------------------------------------------------------------------------------------

WORDS = [b"t", b"th", b" t", b" ", b"h", b"he", b"\xc3", "é".encode(), b"z"]
FOLLOWED = [b"h", b"e", b"he", b" ", b"  ", b"the", b"a", b"\xc3", b"\xa9", b"z", b"."]


@st.composite
def columns(draw: st.DrawFn) -> dict[bytes, dict[bytes, float]]:
    """Columns of some source tokens, over target tokens that may or may not begin with their bytes."""
    targets = st.sampled_from([b"t", b"th", b"the", b" ", b"  ", b" a", b"h", b"h\xc3", "hé".encode(), b"\xc3", b"q"])
    column = st.dictionaries(targets, st.floats(0.01, 10), min_size=1, max_size=5)
    return draw(st.dictionaries(st.sampled_from(WORDS), column, max_size=len(WORDS)))


@st.composite
def said(draw: st.DrawFn) -> dict[bytes, float]:
    """A distribution over a few source tokens."""
    weights = draw(st.dictionaries(st.sampled_from(FOLLOWED), st.floats(0.01, 1), min_size=1))
    return {v: weight / sum(weights.values()) for v, weight in weights.items()}


paths = st.lists(st.tuples(said(), st.sampled_from(FOLLOWED)), min_size=1, max_size=3)


def steps(source: Vocabulary, path: list[tuple[dict[bytes, float], bytes]]) -> list[Step]:
    return [(log({source.canonical[v]: p for v, p in p.items()}), source.canonical[next_]) for p, next_ in path]


def written_out(target, column_of, w, y, data, path) -> float:
    """The sum over the next source tokens, in plain loops; each step of the path asks the source again."""
    total = 0.0
    for v, p in path[0][0].items():
        first = target.token_bytes[target.segment(data + v)[0]]
        if first != data + v:
            total += p * (y == first)
        elif v == path[0][1] and len(path) > 1:
            total += p * written_out(target, column_of, w, y, data + v, path[1:])
        else:
            column = next((c for c in (column_of(w), column_of(data + v)) if first in c), {first: 1.0})
            longer = {other: weight for other, weight in column.items() if other.startswith(data + v)}
            total += p * longer.get(y, 0.0) / sum(longer.values())
    return total


@given(columns=columns(), word=st.sampled_from(WORDS), path=paths)
@settings(max_examples=60, deadline=None)
def test_it_is_the_sum_over_the_next_source_tokens_that_the_equation_says(tiny, columns, word, path):
    source, target = tiny["source"], tiny["target"]
    alignment = with_columns(tiny, columns)
    ahead = look_ahead(alignment, source, target)

    def column_of(data: bytes) -> dict[bytes, float]:
        own = ahead.column(source.canonical[data]) if data in source.canonical else {}
        return {target.token_bytes[y]: weight for y, weight in own.items()}

    for y in {*column_of(word), b"t", b"the", b" ", b"h", b"\xc3"}:
        found = ahead.probability(target.canonical[y], source.canonical[word], word, steps(source, path))
        assert found == pytest.approx(written_out(target, column_of, word, y, word, path), abs=1e-5)


@given(columns=columns(), word=st.sampled_from(WORDS), rest=st.integers(0, 2), path=paths, flat=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_probabilities_of_all_target_tokens_sum_to_1(tiny, columns, word, rest, path, flat):
    """Of a whole token and of the rest of one, and where much of the mass is not looked at, too."""
    source, target = tiny["source"], tiny["target"]
    ahead = look_ahead(with_columns(tiny, columns), source, target)
    piece = word[min(rest, len(word) - 1) :]
    known = steps(source, path)
    if flat:
        known = [(np.logaddexp(log_p, np.log(1 / SOURCE_SIZE)) - np.log(2), v) for log_p, v in known]
    w = source.segment(piece)[0]
    assert sum(ahead.probability(y, w, piece, known) for y in range(TARGET_SIZE)) == pytest.approx(1, abs=1e-5)


@given(word=st.sampled_from(WORDS), path=paths)
@settings(max_examples=40, deadline=None)
def test_where_a_column_has_one_entry_and_no_target_token_is_longer_it_is_the_column(tiny, word, path):
    source, target = tiny["source"], tiny["bytes"]
    alignment = align(source, target, method="retokenize", cache=False)
    ahead = look_ahead(alignment, source, target)
    w = source.canonical[word]
    assert ahead.column(w) == {word[0]: 1.0}
    for y in range(target.size):
        assert ahead.probability(y, w, word, steps(source, path)) == pytest.approx(float(y == word[0]), abs=1e-6)


@given(columns=columns(), word=st.sampled_from(WORDS), path=paths, share=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_what_arrives_is_the_sum_over_the_source_s_tokens_and_looks_behind_that_of_the_text(
    tiny, columns, word, path, share, seed
):
    """Shorter source tokens give a target token nothing but through the text's own; together it is at most all."""
    source, target = tiny["source"], tiny["target"]
    alignment = with_columns(tiny, columns)
    ahead = look_ahead(alignment, source, target)
    C = alignment.column_weights.toarray()
    p = np.random.default_rng(seed).dirichlet(np.full(SOURCE_SIZE, 0.1))
    w = source.canonical[word]
    weight = share * p[w]
    arrived = []
    for y, data in enumerate(target.token_bytes):
        expected = weight * ahead.probability(y, w, word, steps(source, path))
        for other, own in enumerate(source.token_bytes):
            if not (data.startswith(own) and len(own) < len(data)):
                expected += C[y, other] * (p[other] - weight * (other == w))
        arrived.append(ahead.carried(y, p, w, weight, word, steps(source, path)))
        assert arrived[-1] == pytest.approx(expected, abs=1e-6)
    assert sum(arrived) < 1 + 1e-5


def test_where_the_text_s_own_token_is_not_known_longer_target_tokens_get_nothing(tiny):
    source, target = tiny["source"], tiny["target"]
    ahead = look_ahead(with_columns(tiny, {b"t": THE}), source, target)
    p = np.zeros(SOURCE_SIZE)
    p[source.canonical[b"t"]], p[source.canonical[b"the"]] = 0.75, 0.25
    found = {y: ahead.carried(target.canonical[y], p, 0, 0.0, b"", [(np.log(p + 1e-9), 0)]) for y in THE}
    assert found == pytest.approx({b"t": 0.75 * 0.2, b"th": 0.0, b"the": 0.25}, abs=1e-6)


def test_the_column_is_that_of_the_matrix(tiny):
    alignment = with_columns(tiny, {b"t": THE})
    ahead = look_ahead(alignment, tiny["source"], tiny["target"])
    dense = alignment.column_weights.toarray()
    for w in range(SOURCE_SIZE):
        assert ahead.column(w) == {y: dense[y, w] for y in np.flatnonzero(dense[:, w])}


def test_first_tokens_are_those_of_the_tokenizer_and_there_is_none_of_nothing(tiny):
    first = FirstTokens(tiny["target"])
    assert first.of(b"thez") == tiny["target"].canonical[b"the"]
    assert first.of(b"h\xc3\xa8") == tiny["target"].canonical[b"h\xc3"]
    assert first.of(b"") == -1
