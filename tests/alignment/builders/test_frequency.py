"""Frequencies of tokens, with and without text."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from vocabridge.alignment import Corpus, Vocabulary
from vocabridge.alignment.builders.base import DUPLICATE
from vocabridge.alignment.builders.frequency import by_rank, frequencies


def no_report(done: int) -> None:
    """Do nothing; the progress callback of these tests."""


def test_without_text_frequency_falls_with_the_rank_and_single_characters_rank_last():
    vocab = {"é": 0, "b": 1, "bé": 2, "bb": 3}
    vocabulary = Vocabulary.from_tokenizer(Tokenizer(models.BPE(vocab, [("b", "é"), ("b", "b")])))
    assert by_rank(vocabulary).tolist() == [2, 3, 0, 1]
    np.testing.assert_allclose(frequencies(vocabulary, None, no_report), [1 / 3, 1 / 4, 1, 1 / 2])


def test_the_tokens_of_a_text_are_added_to_the_prior(vocabulary, tmp_path, text):
    (tmp_path / "t").write_text(text, encoding="utf-8")
    corpus = Corpus.open([tmp_path / "t"])
    reported: list[int] = []
    counted = frequencies(vocabulary, corpus, reported.append) - frequencies(vocabulary, None, no_report)
    expected = np.zeros(vocabulary.size)
    for piece in corpus.chunks():
        for i in vocabulary.encode(piece).ids.tolist():
            expected[i] += vocabulary.token_bytes[i] is not None
    np.testing.assert_allclose(counted, expected, atol=1e-9)
    assert reported[-1] == corpus.bytes


def test_exactly_the_tokens_that_stand_for_bytes_have_a_frequency(vocabulary):
    assert np.flatnonzero(frequencies(vocabulary, None, no_report) > 0).tolist() == vocabulary.usable.tolist()


def test_an_id_that_never_occurs_has_the_least_frequency():
    spm = models.BPE({"<unk>": 0, "<0x41>": 1, "A": 2}, [], byte_fallback=True, unk_token="<unk>")
    frequency = frequencies(Vocabulary.from_tokenizer(Tokenizer(spm)), None, no_report)
    assert frequency.tolist() == pytest.approx([0, DUPLICATE, 1 / 2])
