"""`retokenize`: each token of one vocabulary, cut up by the other tokenizer; the first piece is its partner.

A text that continues with the longer token continues with the first piece of it. Done in both directions,
so that every token of either vocabulary has a partner: a token that is whole on both sides counts 2. An id
that never occurs because another has its bytes (Gemma's `<0x41>`) has a partner too, but counts next to
nothing. What is a token of the other vocabulary as well is not cut: that saves most of the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.builders.base import Builder, Progress, matrix, occurrence
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.tokenizers.tokens import Int64
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_BATCH = 1 << 14


@dataclass(frozen=True)
class Retokenize(Builder):
    """Pair every token with the first piece that the other tokenizer makes of it."""

    method: ClassVar[str] = "retokenize"

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        total = len(target.usable) + len(source.usable)
        y, first_w = _first_pieces(target, source, lambda done: progress(done, total))
        w, first_y = _first_pieces(source, target, lambda done: progress(len(target.usable) + done, total))
        rows, columns = np.concatenate((y, first_y)), np.concatenate((first_w, w))
        counts = np.concatenate((occurrence(target)[y], occurrence(source)[w]))
        return matrix(rows, columns, counts, (target.size, source.size))


def _first_pieces(tokens_of: Vocabulary, cut_by: Vocabulary, tell: Callable[[int], None]) -> tuple[Int64, Int64]:
    """Return ids of one vocabulary and, for each, the other's id that its bytes begin with."""
    ids, firsts = [], []
    for at in range(0, len(tokens_of.usable), _BATCH):
        batch = tokens_of.usable[at : at + _BATCH].tolist()
        whole = [cut_by.canonical.get(tokens_of.token_bytes[i] or b"") for i in batch]
        cut = [i for i, same in zip(batch, whole, strict=True) if same is None]
        pieces = iter(cut_by.segment_batch([tokens_of.token_bytes[i] or b"" for i in cut]))
        for i, same in zip(batch, whole, strict=True):
            piece = next(pieces) if same is None else (same,)
            if piece:
                ids.append(i)
                firsts.append(piece[0])
        tell(at + len(batch))
    return np.array(ids, np.int64), np.array(firsts, np.int64)
