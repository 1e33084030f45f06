"""`a,b,c`: each builder fills the rows and columns that the ones before it left empty.

Open are the rows of target tokens, and the columns of source tokens, that stand for bytes and have no count.
What fills them must not take from what the earlier builders found out, so the filled rows have the filler's
own weights (they sum to one occurrence), scaled down row by row until all of them together count at most
one occurrence in a column that was covered before:

    N' = N + diag(s) R_fill,   s_y = min(1, 1 / max over covered w with R_fill[y, w] > 0 of load(w)),
    load(w) = sum over open y of R_fill[y, w]

and filled columns likewise. A column that n occurrences covered so keeps at least n / (n + 1) of its mass:
what add-one smoothing leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.builders.base import Builder, Progress, Reads, occurrence
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.sparse import sums
from vocabridge.alignment.tokenizers.tokens import Int64
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class Chain(Builder):
    """Builders, the first of which counts, and each other fills what is open.

    Attributes:
        builders: In their order; no method twice.
    """

    builders: tuple[Builder, ...]

    def __post_init__(self) -> None:
        names = [builder.method for builder in self.builders]
        if twice := {name for name in names if names.count(name) > 1}:
            raise VocabridgeError(f"The method {min(twice)} is in the chain {','.join(names)} twice: name it once.")

    @property
    def method(self) -> str:  # type: ignore[override]  # of the instance, where other builders have it of the class
        """The methods, joined by commas."""
        return ",".join(builder.method for builder in self.builders)

    @property
    def reads(self) -> Reads:  # type: ignore[override]
        """What the builder that needs a corpus most does with it."""
        needs = {builder.reads for builder in self.builders}
        return next(need for need in (Reads.ALWAYS, Reads.IF_GIVEN, Reads.NOTHING) if need in needs)

    @property
    def shares(self) -> bool:  # type: ignore[override]
        """Whether one of the builders shares its counting."""
        return any(builder.shares for builder in self.builders)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of each builder, by its method."""
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
    """Return the target tokens, sorted, that stand for bytes and have no count."""
    return target.usable[np.diff(counts.indptr)[target.usable] == 0]


def open_columns(counts: sp.csr_array, source: Vocabulary) -> Int64:
    """Return the source tokens, sorted, that stand for bytes and have no count."""
    return np.setdiff1d(source.usable, counts.indices)


def _text_for(builder: Builder, corpus: Corpus | None) -> Corpus | None:
    return None if builder.reads is Reads.NOTHING else corpus


def _filled(
    counts: sp.csr_array, filler: sp.csr_array, rows: Int64, occurrence: np.ndarray[Any, np.dtype[np.float64]]
) -> sp.csr_array:
    """Return the filler's weights in the open rows, scaled as the module says; all other rows are empty.

    Args:
        counts: What was there before, (n, m).
        filler: (n, m).
        rows: The open rows.
        occurrence: (n,), what one occurrence of each row's token counts.
    """
    scale = np.zeros(counts.shape[0])
    per_row = sums(filler, axis=1)
    found = rows[per_row[rows] > 0]
    scale[found] = occurrence[found] / per_row[found]
    fill = _times_rows(filler, scale)
    fill.eliminate_zeros()
    load = np.where(sums(counts, axis=0) > 0, sums(fill, axis=0), 0.0)
    entries = np.repeat(np.arange(len(scale)), np.diff(fill.indptr))
    heaviest = np.ones(len(scale))
    np.maximum.at(heaviest, entries, load[fill.indices])
    return _times_rows(fill, 1 / heaviest)


def _times_rows(counts: sp.csr_array, factors: np.ndarray[Any, np.dtype[np.float64]]) -> sp.csr_array:
    """Multiply every row with its factor."""
    data = counts.data * np.repeat(factors, np.diff(counts.indptr))
    return sp.csr_array((data, counts.indices.copy(), counts.indptr.copy()), shape=counts.shape)
