"""`default`: counts of tokens that start together, a re-tokenisation prior, and exact bytes pinned.

N = cooccurrence + prior * retokenize, and the count of two tokens of the very same bytes is raised to the
largest of their row and column. The prior covers the tokens that the corpus never showed, so that no row and
no column of a token that stands for bytes is empty; without a corpus it stands alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from .builder import Reads, matrix
from .cooccurrence import count_starts
from .counting import CountingBuilder, PairCounts
from .exact import exact_partners
from .retokenize import Retokenize
from .vocabulary import Int64, Vocabulary


@dataclass(frozen=True)
class Combined(CountingBuilder):
    """Counts, prior and pinned exact bytes.

    Attributes:
        prior: What one retokenisation counts, in occurrences.
    """

    method: ClassVar[str] = "default"
    reads: ClassVar[Reads] = Reads.IF_GIVEN
    symmetric: ClassVar[bool] = True
    prior: float = 1.0

    def _count_batch(self, source: Vocabulary, target: Vocabulary, texts: Sequence[str]) -> PairCounts:
        return count_starts(source, target, texts)

    def _finish(self, counts: sp.csr_array, source: Vocabulary, target: Vocabulary) -> sp.csr_array:
        prior = Retokenize()._count(source, target, None, lambda done, total: None)
        return _raise_partners(sp.csr_array(counts + self.prior * prior), *exact_partners(source, target))


def _raise_partners(counts: sp.csr_array, y: Int64, w: Int64) -> sp.csr_array:
    """Raise the count of each pair (y, w) to the largest of its row and column."""
    largest = np.maximum(
        counts.max(axis=1).toarray().ravel()[y],
        counts.max(axis=0).toarray().ravel()[w],
    )
    return sp.csr_array(counts.maximum(matrix(y, w, largest, counts.shape)))
