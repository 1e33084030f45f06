"""`identical-bytes`: tokens that stand for the very same bytes.

Where several ids share one byte string (Gemma's `A` and `<0x41>`), all pairs are found, and the weight goes
to the ids that the tokenizers really emit: such a pair counts 1, every other next to nothing (`DUPLICATE`),
so that no probability is lost on an id that never occurs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.builders.base import Builder, Progress, matrix, occurrence
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.tokenizers.tokens import Int64
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class IdenticalBytes(Builder):
    """Pair tokens of equal bytes."""

    method: ClassVar[str] = "identical-bytes"

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        pairs = [
            (y, w)
            for data in source.canonical.keys() & target.canonical.keys()
            for y in target.ids_of(data)
            for w in source.ids_of(data)
        ]
        y, w = np.array(pairs, np.int64).reshape(-1, 2).T
        counts = np.minimum(occurrence(target)[y], occurrence(source)[w])
        return matrix(y, w, counts, (target.size, source.size))


def exact_partners(source: Vocabulary, target: Vocabulary) -> tuple[Int64, Int64]:
    """Return target ids and source ids, (n,) each, of the pairs of equal bytes that both tokenizers emit."""
    shared = sorted(source.canonical.keys() & target.canonical.keys())
    ids = ([vocabulary.canonical[data] for data in shared] for vocabulary in (target, source))
    y, w = (np.array(found, np.int64) for found in ids)
    return y, w
