"""Builders that count over text: counts of parts of a corpus add up to the counts of the whole.

So a corpus can be spread over threads, processes (`workers.py`) and machines (`shards.py`). What a builder
makes of the finished counts (a prior, a choice of the largest) comes once, at the end.

Any framework that runs a function over parts of a data set can do the counting. With `datasets`:

    def count(i):  # in any process, on any machine
        return count_texts(builder, source, target, data.shard(8, i)["text"])

    alignment = builder.finish(PairCounts.total(map(count, range(8))), source, target)
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import scipy.sparse as sp

from vocabridge.alignment.alignment import Alignment
from vocabridge.alignment.builders.base import Builder, Progress, Reads
from vocabridge.alignment.corpus import Corpus, CorpusCard
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.counting.workers import Work, count_corpus
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class CountingBuilder(Builder, abc.ABC):
    """A builder that counts pairs over text, batch by batch.

    Attributes:
        symmetric: Whether the counts of (T, S) are those of (S, T) with the pairs turned round.
    """

    reads: ClassVar[Reads] = Reads.ALWAYS
    shares: ClassVar[bool] = True
    symmetric: ClassVar[bool] = False

    def finish(
        self, counts: PairCounts, source: Vocabulary, target: Vocabulary, corpus: CorpusCard | None = None
    ) -> Alignment:
        """Make the alignment of counts over all text.

        Args:
            counts: What was counted, the parts added up.
            source: S.
            target: T.
            corpus: What it was counted on, for the alignment's provenance.
        """
        return self._alignment(self._finish(counts.matrix(source, target), source, target), source, target, corpus)

    @abc.abstractmethod
    def count_batch(self, source: Vocabulary, target: Vocabulary, texts: Sequence[str]) -> PairCounts:
        """Count the pairs of some pieces of text; called from several threads."""

    def _finish(self, counts: sp.csr_array, source: Vocabulary, target: Vocabulary) -> sp.csr_array:
        """Make the alignment's counts, (|T|, |S|), of those over all text."""
        return counts

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        counts = PairCounts()
        if corpus is not None:
            (counts,) = count_corpus(Work(self, (source, target)), corpus, progress)
        return self._finish(counts.matrix(source, target), source, target)


def count_texts(builder: CountingBuilder, source: Vocabulary, target: Vocabulary, texts: Iterable[str]) -> PairCounts:
    """Count the pairs of any texts, in this process; counts of several calls add up, `builder.finish` ends.

    Args:
        builder: How to count.
        source: S.
        target: T.
        texts: Read as they are needed, 16 at a time; each is encoded by itself, so cut long ones.
    """
    (counts,) = Work(builder, (source, target)).count(texts, lambda more: None)
    return counts
