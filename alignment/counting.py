"""Builders that count over text: counts of parts of a corpus add up to the counts of the whole.

A pair of tokens (y, w) is the number y * |S| + w, its key, and counts are kept as sorted unique keys, so
memory grows with the pairs and not with the text. What a builder makes of the finished counts (a prior, a
choice of the largest) comes once, at the end.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from .builder import Builder, Progress, Reads, matrix
from .corpus import Corpus
from .vocabulary import Int64, Vocabulary

_BATCH = 16
"""Pieces of text counted together: enough for the tokenizer's threads, about 1 MiB of text."""


@dataclass(frozen=True)
class PairCounts:
    """How often pairs of tokens were seen; `a + b` is what both saw.

    Attributes:
        keys: (n,) int64, y * |S| + w, sorted and unique.
        counts: (n,) int64, positive.
    """

    keys: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    counts: Int64 = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def of(cls, keys: Int64) -> PairCounts:
        """Count keys, given in any order."""
        return cls(*np.unique(keys, return_counts=True))

    def __add__(self, other: PairCounts) -> PairCounts:
        merged, where = np.unique(np.concatenate((self.keys, other.keys)), return_inverse=True)
        total = np.zeros(len(merged), np.int64)
        np.add.at(total, where, np.concatenate((self.counts, other.counts)))
        return PairCounts(merged, total)

    def matrix(self, source: Vocabulary, target: Vocabulary) -> sp.csr_array:
        """Return the counts as (|T|, |S|) float64 CSR."""
        rows, columns = self.keys // source.size, self.keys % source.size
        return matrix(rows, columns, self.counts, (target.size, source.size))


@dataclass(frozen=True)
class CountingBuilder(Builder, abc.ABC):
    """A builder that counts pairs over text, batch by batch."""

    reads: ClassVar[Reads] = Reads.ALWAYS

    @abc.abstractmethod
    def _count_batch(self, source: Vocabulary, target: Vocabulary, texts: Sequence[str]) -> PairCounts:
        """Count the pairs of some pieces of text."""

    def _finish(self, counts: sp.csr_array, source: Vocabulary, target: Vocabulary) -> sp.csr_array:
        """Make the alignment's counts, (|T|, |S|), of those over all text."""
        return counts

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        counts, done = PairCounts(), 0
        for batch in _batches(corpus.chunks() if corpus else ()):
            counts += self._count_batch(source, target, batch)
            done += sum(len(text.encode()) for text in batch)
            progress(done, corpus.bytes if corpus else 0)
        return self._finish(counts.matrix(source, target), source, target)


def _batches(texts: Iterable[str]) -> Iterable[list[str]]:
    stream = iter(texts)
    for first in stream:
        yield [first, *(text for _, text in zip(range(_BATCH - 1), stream, strict=False))]
