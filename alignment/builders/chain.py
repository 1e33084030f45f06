"""`a,b,c`: a chain of builders, in which each fills the rows and columns that the builders before it left empty.

A row of a target token that stands for bytes is *open* if it has no count, and so is a column of such a source token.
Filled rows must not outweigh the counts of earlier builders. A filled row therefore has the weights R_fill of its
builder, which sum to one occurrence, scaled down until all filled rows together add at most one occurrence to any
column that earlier builders covered:

    N' = N + diag(s) R_fill,   s_y = min(1, 1 / max over covered w with R_fill[y, w] > 0 of load(w)),
    load(w) = sum over open y of R_fill[y, w]

Columns are filled likewise. A column that n occurrences covered keeps at least n / (n + 1) of its mass, as under
add-one smoothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.arrays import Int64
from vocabridge.alignment.builders.base import Builder, Progress, Reads, occurrence
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.sparse import sums
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class Chain(Builder):
    """Several builders: the first counts, and each of the others fills open rows and columns.

    Attributes:
        builders: The builders in order, each of another method.

    Raises:
        VocabridgeError: Two builders have the same method.
    """

    builders: tuple[Builder, ...]

    def __post_init__(self) -> None:
        names = [builder.method for builder in self.builders]
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise VocabridgeError(f"the method {min(duplicates)} is in the chain {','.join(names)} twice; name it once")

    @property
    def method(self) -> str:  # type: ignore[override]  # an instance's property; other builders have a class variable
        """The methods, joined by commas."""
        return ",".join(builder.method for builder in self.builders)

    @property
    def reads(self) -> Reads:  # type: ignore[override]
        """Whether the builders read a corpus: the strongest requirement among them."""
        requirements = {builder.reads for builder in self.builders}
        return next(reads for reads in (Reads.ALWAYS, Reads.IF_GIVEN, Reads.NOTHING) if reads in requirements)

    @property
    def shares(self) -> bool:  # type: ignore[override]
        """Whether several processes can share the counting of any of the builders."""
        return any(builder.shares for builder in self.builders)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of each builder, keyed by its method."""
        return {builder.method: builder.parameters for builder in self.builders}

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        first, *others = self.builders
        counts = first._count(source, target, _text_for(first, corpus), progress)
        for builder in others:
            rows, columns = open_rows(counts, target), open_columns(counts, source)
            if len(rows) or len(columns):
                filler = builder._fill(counts, source, target, _text_for(builder, corpus), progress)
                filled = _filled(counts, filler, rows, occurrence(target))
                filled_columns = _filled(counts.T.tocsr(), filler.T.tocsr(), columns, occurrence(source))
                counts = sp.csr_array(counts + filled + filled_columns.T)
        return counts


def open_rows(counts: sp.csr_array, target: Vocabulary) -> Int64:
    """Return the target tokens, sorted, that stand for bytes and have no count in their row."""
    return target.usable[np.diff(counts.indptr)[target.usable] == 0]


def open_columns(counts: sp.csr_array, source: Vocabulary) -> Int64:
    """Return the source tokens, sorted, that stand for bytes and have no count in their column."""
    return np.setdiff1d(source.usable, counts.indices)


def _text_for(builder: Builder, corpus: Corpus | None) -> Corpus | None:
    return None if builder.reads is Reads.NOTHING else corpus


def _filled(
    counts: sp.csr_array, filler: sp.csr_array, rows: Int64, occurrence: np.ndarray[Any, np.dtype[np.float64]]
) -> sp.csr_array:
    """Return diag(s) R_fill of the module's equation, (n, m): scaled weights in the open rows, all other rows empty.

    Args:
        counts: N, the counts of earlier builders, (n, m).
        filler: The counts of the builder that fills, (n, m).
        rows: The open rows.
        occurrence: (n,), the count of one occurrence of each row's token.
    """
    scale = np.zeros(counts.shape[0])
    row_sums = sums(filler, axis=1)
    fillable = rows[row_sums[rows] > 0]
    scale[fillable] = occurrence[fillable] / row_sums[fillable]
    fill = _scale_rows(filler, scale)
    fill.eliminate_zeros()
    load = np.where(sums(counts, axis=0) > 0, sums(fill, axis=0), 0.0)
    entry_rows = np.repeat(np.arange(len(scale)), np.diff(fill.indptr))
    largest_load = np.ones(len(scale))
    np.maximum.at(largest_load, entry_rows, load[fill.indices])
    return _scale_rows(fill, 1 / largest_load)


def _scale_rows(counts: sp.csr_array, factors: np.ndarray[Any, np.dtype[np.float64]]) -> sp.csr_array:
    """Multiply every row by its factor."""
    data = counts.data * np.repeat(factors, np.diff(counts.indptr))
    return sp.csr_array((data, counts.indices.copy(), counts.indptr.copy()), shape=counts.shape)
