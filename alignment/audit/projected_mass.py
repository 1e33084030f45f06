"""Projected mass on a text: the target tokens that get the mass of source token w where target token y starts with it.

    C[y, w]                                  the mass that arrives
    -log2 max(C[y, w], 1/|T|)                the bits lost

C is the static projection (the counts with columns that sum to 1). The source model is assumed to give w probability 1,
and no token costs more than a uniform guess. The rest of the mass goes to another token of y's class, to another class,
or nowhere if w has no column. A class that loses its mass cannot be steered; for example, arithmetic fails if digits
are not aligned.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.alignment import Alignment
from vocabridge.alignment.arrays import Float64, Int64
from vocabridge.alignment.audit.coverage import Balance, Coverage, Side
from vocabridge.alignment.audit.figures import CLASSES
from vocabridge.alignment.counting.pair_counts import PairCounts


@dataclass(frozen=True)
class ProjectedMass:
    """The n pairs of tokens that start at the same byte of the text, with the mass that arrives.

    Attributes:
        source: The source vocabulary S.
        target: The target vocabulary T.
        columns: C, (|T|, |S|) CSC.
        inside: (classes, |S|) float64, the mass of each column on each class of target tokens.
        y: (n,) target ids.
        w: (n,) source ids.
        times: (n,) float64, how often each pair occurs.
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
        """Look up the entries of C for pairs of tokens that start at the same byte."""
        C, size = alignment.column_weights, source.vocabulary.size
        y, w = (index.astype(np.int64) for index in C.tocoo().coords)
        inside = np.bincount(target.classes[y].astype(np.int64) * size + w, C.data, len(CLASSES) * size)
        keys, values = np.append(y * size + w, -1), np.append(C.data, 0.0)  # the last is for pairs without an entry
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
        """The bits lost at each occurrence of each pair, (n,)."""
        return -np.log2(np.maximum(self.arriving, 1 / self.target.vocabulary.size))

    @functools.cached_property
    def _figures(self) -> dict[str, Float64]:
        """The fields of `Coverage` that are sums over pairs, as one array (n,) each."""
        class_mass = self.inside[self.target.classes[self.y], self.w]
        source_times = np.bincount(self.w, self.times, self.source.vocabulary.size)
        per_occurrence = {
            "arrived": self.arriving,
            "same_class": np.maximum(class_mass - self.arriving, 0),
            "other_class": np.maximum(self.inside.sum(axis=0)[self.w] - class_mass, 0),
            "bits": self.bits,
            "least_bits": np.log2(source_times[self.w] / self.times),  # with C counted on these pairs themselves
        }
        return {name: self.times * values for name, values in per_occurrence.items()}

    def coverage(self, side: Side, ids: Int64, occurrences: Int64) -> tuple[Coverage, ...]:
        """Return the coverage of one side's tokens, one for each class.

        Args:
            side: The source or the target.
            ids: (n,) the ids of this side in the pairs.
            occurrences: (size,), how often each id occurs in the text.
        """
        all_ids = np.arange(len(occurrences))
        return side.coverage(
            occurrences=side.per_class(all_ids, occurrences).astype(np.int64),
            covered_occurrences=side.per_class(all_ids, occurrences * (side.sizes > 0)).astype(np.int64),
            common=side.per_class(ids, self.times).astype(np.int64),
            **{name: side.per_class(ids, values) for name, values in self._figures.items()},
        )

    def balances(self) -> tuple[Balance, ...]:
        """Return the mass that each class of target tokens gets, beside the mass that it should get."""
        due = self.target.per_class(self.y, self.times)
        got = self.inside @ np.bincount(self.w, self.times, self.source.vocabulary.size)
        return tuple(Balance(c, round(due[c]), float(got[c])) for c in CLASSES)
