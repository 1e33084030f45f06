"""`default`: counts of tokens that start together, a re-tokenisation prior, and exact bytes pinned.

N = cooccurrence + prior * retokenize. The prior covers the tokens that the corpus never showed, so that no
row and no column of a token that stands for bytes is empty; without a corpus it stands alone.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from .builder import Builder, Progress, Reads, matrix
from .cooccurrence import count_starts
from .corpus import Corpus
from .exact import exact_partners
from .retokenize import Retokenize
from .vocabulary import Int64, Vocabulary


class Pin(enum.Enum):
    """What becomes of two tokens of the very same bytes.

    Attributes:
        NONE: Nothing: their counts stand.
        ROWS: The target token keeps its exact partner alone.
        FLOOR: Their count is at least the largest of its row and of its column.
    """

    NONE = enum.auto()
    ROWS = enum.auto()
    FLOOR = enum.auto()


@dataclass(frozen=True)
class Combined(Builder):
    """Counts, prior and pinned exact bytes.

    Attributes:
        prior: What one retokenisation counts, in occurrences.
        pin: What pinning means.
    """

    method: ClassVar[str] = "default"
    reads: ClassVar[Reads] = Reads.IF_GIVEN
    prior: float = 1.0
    pin: Pin = Pin.FLOOR

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        prior = Retokenize()._count(source, target, None, progress)
        counts = sp.csr_array(count_starts(source, target, corpus, progress) + self.prior * prior)
        if self.pin is Pin.NONE:
            return counts
        y, w = exact_partners(source, target)
        counts = _raise_partners(counts, y, w)
        return _keep_partners(counts, y, w) if self.pin is Pin.ROWS else counts


def _raise_partners(counts: sp.csr_array, y: Int64, w: Int64) -> sp.csr_array:
    """Raise the count of each pair (y, w) to the largest of its row and column."""
    largest = np.maximum(
        counts.max(axis=1).toarray().ravel()[y],
        counts.max(axis=0).toarray().ravel()[w],
    )
    return sp.csr_array(counts.maximum(matrix(y, w, largest, counts.shape)))


def _keep_partners(counts: sp.csr_array, y: Int64, w: Int64) -> sp.csr_array:
    """Drop all but (y, w) from the rows y, sparing the largest entry of a column that would become empty."""
    entries = counts.tocoo()
    rows, columns = entries.coords
    partner = np.full(counts.shape[0], -1, np.int64)
    partner[y] = w
    keep = (partner[rows] < 0) | (partner[rows] == columns)
    kept = np.zeros(counts.shape[1], bool)
    kept[columns[keep]] = True
    lost = np.flatnonzero(~kept[columns])
    by_size = lost[np.lexsort((-entries.data[lost], columns[lost]))]
    _, first = np.unique(columns[by_size], return_index=True)
    keep[by_size[first]] = True
    return matrix(rows[keep], columns[keep], entries.data[keep], counts.shape)
