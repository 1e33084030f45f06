"""`default`: co-occurrence counts, with a prior from re-tokenization for pairs that the corpus does not contain.

    N[y, w] = cooccurrence[y, w] + retokenize[y, w] * seen[w] / sum over y of retokenize[y, w]

where seen[w] is the number of distinct y that co-occur with w in the corpus (the factor is at most 1). The prior
therefore gets as much mass in a column as the column has distinct partners, which is Witten and Bell's estimate ("The
Zero-Frequency Problem", IEEE Transactions on Information Theory 37(4), 1991): a token that always has the same partner
leaves next to no mass for others. A token that is not in the corpus has its counts of `retokenize` alone, and without
a corpus so have all tokens. Thus no row and no column of a token that stands for bytes is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.builders.base import Reads, no_progress
from vocabridge.alignment.builders.cooccurrence import count_starts
from vocabridge.alignment.builders.retokenize import Retokenize
from vocabridge.alignment.counting.counting_builder import CountingBuilder
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.sparse import sums
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class Combined(CountingBuilder):
    """Count co-occurrences, and add a prior from re-tokenization."""

    method: ClassVar[str] = "default"
    reads: ClassVar[Reads] = Reads.IF_GIVEN
    symmetric: ClassVar[bool] = True

    def count_batch(self, source: Vocabulary, target: Vocabulary, texts: Sequence[str]) -> PairCounts:
        """Count the pairs of some pieces of text; see `CountingBuilder.count_batch`."""
        return count_starts(source, target, texts)

    def _finish(self, counts: sp.csr_array, source: Vocabulary, target: Vocabulary) -> sp.csr_array:
        prior = Retokenize()._count(source, target, None, no_progress).tocsc()
        seen = np.diff(counts.tocsc().indptr)
        mass = sums(prior, axis=0)
        scale = np.where(seen > 0, np.minimum(1.0, seen / np.maximum(mass, 1e-300)), 1.0)
        prior.data *= np.repeat(scale, np.diff(prior.indptr))
        return sp.csr_array(counts + prior.tocsr())
