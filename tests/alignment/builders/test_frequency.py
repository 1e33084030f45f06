"""How often tokens occur."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from vocabridge.alignment import Corpus, Vocabulary
from vocabridge.alignment.builders.base import DUPLICATE
from vocabridge.alignment.builders.frequency import by_rank, frequencies


def silent(done: int) -> None:
    """Tell nobody."""


def test_without_text_frequency_falls_with_the_rank_and_single_characters_come_last():
    vocab = {"é": 0, "b": 1, "bé": 2, "bb": 3}
    vocabulary = Vocabulary.from_tokenizer(Tokenizer(models.BPE(vocab, [("b", "é"), ("b", "b")])))
    assert by_rank(vocabulary).tolist() == [2, 3, 0, 1]
    np.testing.assert_allclose(frequencies(vocabulary, None, silent), [1 / 3, 1 / 4, 1, 1 / 2])


def test_with_text_the_tokens_in_it_are_counted_on_top(vocabulary, tmp_path, text):
    (tmp_path / "t").write_text(text, encoding="utf-8")
    corpus = Corpus.open([tmp_path / "t"])
    told: list[int] = []
    more = frequencies(vocabulary, corpus, told.append) - frequencies(vocabulary, None, silent)
    expected = np.zeros(vocabulary.size)
    for piece in corpus.chunks():
        for i in vocabulary.encode(piece).ids.tolist():
            expected[i] += vocabulary.token_bytes[i] is not None
    np.testing.assert_allclose(more, expected, atol=1e-9)
    assert told[-1] == corpus.bytes


def test_exactly_the_tokens_that_stand_for_bytes_have_a_frequency(vocabulary):
    assert np.flatnonzero(frequencies(vocabulary, None, silent) > 0).tolist() == vocabulary.usable.tolist()


def test_an_id_that_never_occurs_has_next_to_none():
    spm = models.BPE({"<unk>": 0, "<0x41>": 1, "A": 2}, [], byte_fallback=True, unk_token="<unk>")
    frequency = frequencies(Vocabulary.from_tokenizer(Tokenizer(spm)), None, silent)
    assert frequency.tolist() == pytest.approx([0, DUPLICATE, 1 / 2])
