"""How often a vocabulary's tokens occur: counted on a corpus, over a prior that holds where there is none.

    f(i) = (#{i in the encoded corpus} + 1 / rank(i)) * occurrence(i)

Vocabularies list their tokens in the order that training found them, the frequent ones first (merges of BPE,
scores of Unigram), and frequency falls as 1 / rank (Zipf), so the place of an id stands for a count that no
corpus gave. Single characters and bytes are the alphabet that training starts from, in no such order: they
rank last.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from vocabridge.alignment.builders.base import occurrence
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.tokenizers.tokens import Int64
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

Float64: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

_BATCH = 16


def frequencies(vocabulary: Vocabulary, corpus: Corpus | None, tell: Callable[[int], None]) -> Float64:
    """Return (size,) float64, how often every id occurs: positive for those that stand for bytes, else 0.

    Args:
        vocabulary: Whose tokens.
        corpus: The text to count on; without it the prior stands alone.
        tell: Called with the bytes of text read so far.
    """
    counts = np.zeros(vocabulary.size)
    ranked = by_rank(vocabulary)
    counts[ranked] = 1 / np.arange(1, len(ranked) + 1)
    pieces, done = (corpus.chunks() if corpus else iter(())), 0
    while batch := list(itertools.islice(pieces, _BATCH)):
        ids = np.concatenate([encoding.ids for encoding in vocabulary.encode_batch(batch)])
        counts += np.bincount(ids[vocabulary.lengths[ids] > 0], minlength=vocabulary.size)
        done += sum(len(text.encode()) for text in batch)
        tell(done)
    return counts * occurrence(vocabulary)


def by_rank(vocabulary: Vocabulary) -> Int64:
    """Return the ids that stand for bytes, the one that should be most frequent first."""
    usable = vocabulary.usable
    alphabet = np.array([_is_one_character(vocabulary.token_bytes[i] or b"") for i in usable.tolist()], bool)
    return np.concatenate((usable[~alphabet], usable[alphabet]))


def _is_one_character(data: bytes) -> bool:
    """Whether no character of UTF-8 starts after the first byte."""
    return all(byte & 0xC0 == 0x80 for byte in data[1:])
