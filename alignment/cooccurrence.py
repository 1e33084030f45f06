"""`cooccurrence`: how often target token y and source token w start at the same byte of the same text.

Both tokenizers encode the corpus, piece by piece, and the two sorted lists of starts are intersected. A
pair is the number y * |S| + w, and counts are kept as sorted unique numbers, so memory grows with the
pairs, not with the text; counts of parts of a corpus add up to the counts of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from .builder import Builder, Progress, Reads, matrix
from .corpus import Corpus
from .vocabulary import Encoding, Int64, Kind, Vocabulary

_BATCH = 16
"""Pieces of text encoded together: enough for the tokenizer's threads, about 1 MiB of text."""


@dataclass(frozen=True)
class Cooccurrence(Builder):
    """Count tokens that start together."""

    method: ClassVar[str] = "cooccurrence"
    reads: ClassVar[Reads] = Reads.ALWAYS

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        return count_starts(source, target, corpus, progress)


def count_starts(source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
    """Count, over a corpus, the pairs of tokens that start at the same byte; no counts without a corpus.

    Control tokens that stand in the text are left out: what they say is not text.

    Returns:
        (|T|, |S|) float64 CSR of whole numbers.
    """
    keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    done = 0
    for batch in _batches(corpus.chunks() if corpus else ()):
        pairs = zip(target.encode_batch(batch), source.encode_batch(batch), strict=True)
        found = [_common(y, w, target, source) for y, w in pairs]
        new, times = np.unique(np.concatenate(found), return_counts=True)
        keys, counts = _add(keys, counts, new, times)
        done += sum(len(text.encode()) for text in batch)
        progress(done, corpus.bytes if corpus else 0)
    return matrix(keys // source.size, keys % source.size, counts, (target.size, source.size))


def _batches(texts: Iterable[str]) -> Iterable[list[str]]:
    stream = iter(texts)
    for first in stream:
        yield [first, *(text for _, text in zip(range(_BATCH - 1), stream, strict=False))]


def _common(y: Encoding, w: Encoding, target: Vocabulary, source: Vocabulary) -> Int64:
    """Return y * |S| + w for the tokens of two encodings that start at the same byte."""
    y_ids, y_starts = _textual(y, target)
    w_ids, w_starts = _textual(w, source)
    _, at_y, at_w = np.intersect1d(y_starts, w_starts, assume_unique=True, return_indices=True)
    return y_ids[at_y] * source.size + w_ids[at_w]


def _textual(encoding: Encoding, vocabulary: Vocabulary) -> tuple[Int64, Int64]:
    """Return ids and starts without control tokens and without tokens that have no start of their own."""
    keep = (encoding.starts >= 0) & (vocabulary.kinds[encoding.ids] != Kind.CONTROL)
    return encoding.ids[keep].astype(np.int64), encoding.starts[keep]


def _add(keys: Int64, counts: Int64, new: Int64, times: Int64) -> tuple[Int64, Int64]:
    """Merge two sorted lists of pairs, adding up their counts."""
    merged, where = np.unique(np.concatenate((keys, new)), return_inverse=True)
    total = np.zeros(len(merged), np.int64)
    np.add.at(total, where, np.concatenate((counts, times)))
    return merged, total
