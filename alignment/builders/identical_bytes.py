"""`identical-bytes`: tokens are aligned if they stand for the same bytes.

Several ids may share the same bytes (Gemma's `A` and `<0x41>`). All their pairs are counted, but only the pair of the
two ids that the tokenizers emit counts 1; every other pair counts `DUPLICATE`, so that ids that never occur get next
to no probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.arrays import Int64
from vocabridge.alignment.builders.base import Builder, Progress, matrix, occurrence
from vocabridge.alignment.corpus import Corpus
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
    """Return target ids and source ids, (n,) each, of the tokens of equal bytes that both tokenizers emit."""
    shared = sorted(source.canonical.keys() & target.canonical.keys())
    y, w = (np.array([vocabulary.canonical[data] for data in shared], np.int64) for vocabulary in (target, source))
    return y, w
