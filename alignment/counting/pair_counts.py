"""Counts of pairs of tokens as sparse, sorted numbers that add up.

A pair (y, w) is the number y * |S| + w, its key. Memory grows with the pairs that were seen and not with the
text; int64 counts are exact, so that the order in which parts are added never shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.builders.base import matrix
from vocabridge.alignment.tokenizers.tokens import Int64
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_FEW = 1 << 20
"""Keys that wait before they are merged; 16 MiB."""


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

    @classmethod
    def total(cls, parts: Iterable[PairCounts]) -> PairCounts:
        """Add up any number of them."""
        parts = [part for part in parts if len(part.keys)]
        if len(parts) < 2:
            return parts[0] if parts else cls()
        keys = np.concatenate([part.keys for part in parts])
        order = np.argsort(keys, kind="stable")  # merges the sorted runs
        keys = keys[order]
        first = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        counts = np.concatenate([part.counts for part in parts])[order]
        return cls(keys[first], np.add.reduceat(counts, first))

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts.total((self, other))

    def transposed(self, source: Vocabulary, target: Vocabulary) -> PairCounts:
        """Return the counts of the pairs (w, y), keyed w * |T| + y."""
        keys = self.keys % source.size * target.size + self.keys // source.size
        order = np.argsort(keys)
        return PairCounts(keys[order], self.counts[order])

    def matrix(self, source: Vocabulary, target: Vocabulary) -> sp.csr_array:
        """Return the counts as (|T|, |S|) float64 CSR."""
        rows, columns = self.keys // source.size, self.keys % source.size
        return matrix(rows, columns, self.counts, (target.size, source.size))


class RunningSum:
    """A sum of many `PairCounts`, merged only when as much waits as there is: linear work, bounded memory."""

    def __init__(self) -> None:
        self._parts: list[PairCounts] = [PairCounts()]
        self._waiting = 0

    def add(self, counts: PairCounts) -> None:
        """Add some counts."""
        self._parts.append(counts)
        self._waiting += len(counts.keys)
        if self._waiting > max(_FEW, len(self._parts[0].keys)):
            self.total()

    def total(self) -> PairCounts:
        """Return what was added so far."""
        self._parts, self._waiting = [PairCounts.total(self._parts)], 0
        return self._parts[0]
