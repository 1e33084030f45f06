"""Projected mass on a text: what becomes of the mass of source token w where it starts with target token y.

    C[y, w]                                  the mass that arrives
    -log2 max(C[y, w], 1/|T|)                the bits lost

C is the static projection (columns of the counts that sum to 1), and the source model is taken as sure of w; no token
costs more than a uniform guess. The rest of the mass goes to another token of y's class, to another class, or
nowhere (w has no column). A class that loses its mass cannot be steered: where digits have no partners, arithmetic
is what breaks.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.alignment import Alignment
from vocabridge.alignment.audit.coverage import Balance, Coverage, Side
from vocabridge.alignment.audit.figures import CLASSES
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.tokenizers.tokens import Int64

Float64: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class ProjectedMass:
    """Pairs of tokens that start together, n of them, and what the projection does there.

    Attributes:
        source: S.
        target: T.
        columns: C, (|T|, |S|) CSC.
        inside: (classes, |S|) float64, how much of each column falls on each class.
        y: (n,) target ids.
        w: (n,) source ids.
        times: (n,) float64, how often they start together.
        arriving: (n,) float64, C[y, w].
    """

    source: Side
    target: Side
    columns: sp.csc_array
    inside: Float64
    y: Int64
    w: Int64
    times: Float64
    arriving: Float64

    @classmethod
    def of(cls, alignment: Alignment, source: Side, target: Side, pairs: PairCounts) -> ProjectedMass:
        """Look up what the projection does with tokens that start together."""
        C, size = alignment.column_weights, source.vocabulary.size
        y, w = (index.astype(np.int64) for index in C.tocoo().coords)
        inside = np.bincount(target.classes[y].astype(np.int64) * size + w, C.data, len(CLASSES) * size)
        keys, values = np.append(y * size + w, -1), np.append(C.data, 0.0)  # sorted, and one for pairs without an entry
        at = np.searchsorted(keys[:-1], pairs.keys)
        return cls(
            source=source,
            target=target,
            columns=C.tocsc(),
            inside=np.minimum(inside, 1.0).reshape(len(CLASSES), size),
            y=pairs.keys // size,
            w=pairs.keys % size,
            times=pairs.counts.astype(np.float64),
            arriving=np.where(keys[at] == pairs.keys, values[at], 0.0),
        )

    @functools.cached_property
    def bits(self) -> Float64:
        """(n,) bits lost each time."""
        return -np.log2(np.maximum(self.arriving, 1 / self.target.vocabulary.size))

    @functools.cached_property
    def _figures(self) -> dict[str, Float64]:
        """(n,) each, what `Coverage` adds up over the pairs."""
        same = self.inside[self.target.classes[self.y], self.w]
        per_source = np.bincount(self.w, self.times, self.source.vocabulary.size)
        each = {
            "arrived": self.arriving,
            "same_class": np.maximum(same - self.arriving, 0),
            "other_class": np.maximum(self.inside.sum(axis=0)[self.w] - same, 0),
            "bits": self.bits,
            "least_bits": np.log2(per_source[self.w] / self.times),  # by the columns that these pairs would give
        }
        return {name: self.times * values for name, values in each.items()}

    def coverage(self, side: Side, ids: Int64, tokens: Int64) -> tuple[Coverage, ...]:
        """Return what is covered of one side's tokens, given its ids in the pairs and (size,) tokens of each id."""
        every = np.arange(len(tokens))
        return side.coverage(
            occurrences=side.per_class(every, tokens).astype(np.int64),
            covered_occurrences=side.per_class(every, tokens * (side.sizes > 0)).astype(np.int64),
            common=side.per_class(ids, self.times).astype(np.int64),
            **{name: side.per_class(ids, values) for name, values in self._figures.items()},
        )

    def balances(self) -> tuple[Balance, ...]:
        """Return the mass that each class of target tokens should get, and gets."""
        due = self.target.per_class(self.y, self.times)
        got = self.inside @ np.bincount(self.w, self.times, self.source.vocabulary.size)
        return tuple(Balance(c, round(due[c]), float(got[c])) for c in CLASSES)
