"""The base class of methods that count over text, whose counts of parts add up to the counts of the whole corpus.

A corpus can therefore be divided among threads, processes (`workers.py`) and machines (`shards.py`). A builder adds its
prior, or selects the largest counts, once, when all text is counted.

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
        symmetric: Whether the counts of (T, S) are the counts of (S, T) with swapped pairs.
    """

    reads: ClassVar[Reads] = Reads.ALWAYS
    shares: ClassVar[bool] = True
    symmetric: ClassVar[bool] = False

    def finish(
        self, counts: PairCounts, source: Vocabulary, target: Vocabulary, corpus: CorpusCard | None = None
    ) -> Alignment:
        """Make the alignment from the counts of all text.

        Args:
            counts: The sum of the counts of all parts.
            source: S.
            target: T.
            corpus: The corpus that was counted, for the alignment's provenance.
        """
        return self._alignment(self._finish(counts.matrix(source, target), source, target), source, target, corpus)

    @abc.abstractmethod
    def count_batch(self, source: Vocabulary, target: Vocabulary, texts: Sequence[str]) -> PairCounts:
        """Count the pairs of some pieces of text. This method is called from several threads."""

    def _finish(self, counts: sp.csr_array, source: Vocabulary, target: Vocabulary) -> sp.csr_array:
        """Turn the counts of all text into the counts of the alignment, both (|T|, |S|)."""
        return counts

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        counts = PairCounts()
        if corpus is not None:
            (counts,) = count_corpus(Work(self, (source, target)), corpus, progress)
        return self._finish(counts.matrix(source, target), source, target)


def count_texts(builder: CountingBuilder, source: Vocabulary, target: Vocabulary, texts: Iterable[str]) -> PairCounts:
    """Count the pairs of any texts in this process.

    Counts of several calls can be added; `builder.finish` makes an alignment from the sum.

    Args:
        builder: The method.
        source: S.
        target: T.
        texts: The texts, read lazily in batches of 16. Each is encoded as one piece, so cut long texts first.
    """
    (counts,) = Work(builder, (source, target)).count(texts, lambda text_bytes: None)
    return counts
