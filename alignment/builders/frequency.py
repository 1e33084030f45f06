"""Frequencies of a vocabulary's tokens: counts on a corpus plus a prior by rank, which also works without a corpus.

    f(i) = (#{i in the encoded corpus} + 1 / rank(i)) * occurrence(i)

Vocabularies list frequent tokens first, in the order of training (merges of BPE, scores of Unigram), and frequency
falls as 1 / rank (Zipf's law). The rank of an id therefore gives its prior. Single characters and bytes are the
alphabet that training starts from, without such an order, so they rank last.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from vocabridge.alignment.arrays import Float64, Int64
from vocabridge.alignment.builders.base import occurrence
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_BATCH = 16
"""Pieces of text encoded together, about 1 MiB."""


def frequencies(vocabulary: Vocabulary, corpus: Corpus | None, report: Callable[[int], None]) -> Float64:
    """Return the frequencies of all ids, (size,) float64: positive for ids that stand for bytes, else 0.

    Args:
        vocabulary: The vocabulary.
        corpus: The text to count on; None for the prior alone.
        report: Called with the bytes of text read so far.
    """
    counts = np.zeros(vocabulary.size)
    ranked = by_rank(vocabulary)
    counts[ranked] = 1 / np.arange(1, len(ranked) + 1)
    pieces, done = (corpus.chunks() if corpus else iter(())), 0
    while batch := list(itertools.islice(pieces, _BATCH)):
        ids = np.concatenate([encoding.ids for encoding in vocabulary.encode_batch(batch)])
        counts += np.bincount(ids[vocabulary.lengths[ids] > 0], minlength=vocabulary.size)
        done += sum(len(text.encode()) for text in batch)
        report(done)
    return counts * occurrence(vocabulary)


def by_rank(vocabulary: Vocabulary) -> Int64:
    """Return the ids that stand for bytes, by falling prior frequency."""
    usable = vocabulary.usable
    alphabet = np.array([_is_one_character(vocabulary.token_bytes[i] or b"") for i in usable.tolist()], bool)
    return np.concatenate((usable[~alphabet], usable[alphabet]))


def _is_one_character(data: bytes) -> bool:
    """Whether the bytes are one UTF-8 character or a part of one."""
    return all(byte & 0xC0 == 0x80 for byte in data[1:])
