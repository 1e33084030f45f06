"""Sparse counts of pairs of tokens, which can be added.

The key of a pair (y, w) is the number y * |S| + w. Memory grows with the number of distinct pairs and not with the
text. The counts are int64 and therefore exact, so the result does not depend on the order in which parts are added.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.arrays import Int64
from vocabridge.alignment.builders.base import matrix
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_PENDING_KEYS = 1 << 20
"""The number of keys (16 MiB) that a `RunningSum` always keeps before it merges them."""


@dataclass(frozen=True)
class PairCounts:
    """How often pairs of tokens occurred. `a + b` adds the counts of both.

    Attributes:
        keys: (n,) int64, y * |S| + w, sorted and unique.
        counts: (n,) int64, positive.
    """

    keys: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    counts: Int64 = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def of(cls, keys: Int64) -> PairCounts:
        """Count the occurrences of each key; the keys may be in any order."""
        return cls(*np.unique(keys, return_counts=True))

    @classmethod
    def total(cls, parts: Iterable[PairCounts]) -> PairCounts:
        """Add any number of counts."""
        parts = [part for part in parts if len(part.keys)]
        if len(parts) < 2:
            return parts[0] if parts else cls()
        keys = np.concatenate([part.keys for part in parts])
        order = np.argsort(keys, kind="stable")  # a stable sort merges the sorted parts in linear time
        keys = keys[order]
        first = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        counts = np.concatenate([part.counts for part in parts])[order]
        return cls(keys[first], np.add.reduceat(counts, first))

    def __add__(self, other: PairCounts) -> PairCounts:
        return PairCounts.total((self, other))

    def transposed(self, source: Vocabulary, target: Vocabulary) -> PairCounts:
        """Return the counts of the swapped pairs (w, y), with the keys w * |T| + y."""
        keys = self.keys % source.size * target.size + self.keys // source.size
        order = np.argsort(keys)
        return PairCounts(keys[order], self.counts[order])

    def matrix(self, source: Vocabulary, target: Vocabulary) -> sp.csr_array:
        """Return the counts as (|T|, |S|) float64 CSR."""
        rows, columns = self.keys // source.size, self.keys % source.size
        return matrix(rows, columns, self.counts, (target.size, source.size))


class RunningSum:
    """A sum of many `PairCounts` with linear work and bounded memory.

    Added counts are kept unmerged until they have as many keys as the merged sum.
    """

    def __init__(self) -> None:
        self._parts: list[PairCounts] = [PairCounts()]
        self._pending_keys = 0

    def add(self, counts: PairCounts) -> None:
        """Add counts to the sum."""
        self._parts.append(counts)
        self._pending_keys += len(counts.keys)
        if self._pending_keys > max(_PENDING_KEYS, len(self._parts[0].keys)):
            self.total()

    def total(self) -> PairCounts:
        """Return the sum of all counts added so far."""
        self._parts, self._pending_keys = [PairCounts.total(self._parts)], 0
        return self._parts[0]
