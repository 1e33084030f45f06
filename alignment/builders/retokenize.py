"""`retokenize`: each token is aligned with the first piece that the other tokenizer cuts from its bytes.

A text that continues with a long token continues with the first piece of that token. Tokens of both vocabularies are
cut, so every token of either vocabulary has a partner, and two tokens of equal bytes count 2. An id that never occurs
because another id has its bytes (Gemma's `<0x41>`) has a partner, too, with a count of `DUPLICATE`. A token whose bytes
are also a token of the other vocabulary is not cut, which saves most of the work.

Source: `x_token` of NVIDIA's NeMo-RL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.arrays import Int64
from vocabridge.alignment.builders.base import Builder, Progress, matrix, occurrence
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_BATCH = 1 << 14
"""The tokens that are cut in one call of the tokenizer."""


@dataclass(frozen=True)
class Retokenize(Builder):
    """Pair every token with the first piece that the other tokenizer cuts from its bytes."""

    method: ClassVar[str] = "retokenize"

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        total = len(target.usable) + len(source.usable)
        y, first_w = _first_pieces(target, source, lambda done: progress(done, total))
        w, first_y = _first_pieces(source, target, lambda done: progress(len(target.usable) + done, total))
        rows, columns = np.concatenate((y, first_y)), np.concatenate((first_w, w))
        counts = np.concatenate((occurrence(target)[y], occurrence(source)[w]))
        return matrix(rows, columns, counts, (target.size, source.size))


def _first_pieces(tokens_of: Vocabulary, cut_by: Vocabulary, report: Callable[[int], None]) -> tuple[Int64, Int64]:
    """Cut the tokens of one vocabulary with the other's tokenizer.

    Args:
        tokens_of: The vocabulary whose tokens are cut.
        cut_by: The vocabulary whose tokenizer cuts them.
        report: Called with the number of tokens done.

    Returns:
        (n,) ids of the first vocabulary; (n,) ids of the second, the first piece of each.
    """
    ids, first_pieces = [], []
    for at in range(0, len(tokens_of.usable), _BATCH):
        batch = tokens_of.usable[at : at + _BATCH].tolist()
        equal_tokens = [cut_by.canonical.get(tokens_of.token_bytes[i] or b"") for i in batch]
        to_cut = [i for i, equal in zip(batch, equal_tokens, strict=True) if equal is None]
        segmentations = iter(cut_by.segment_batch([tokens_of.token_bytes[i] or b"" for i in to_cut]))
        for i, equal in zip(batch, equal_tokens, strict=True):
            pieces = next(segmentations) if equal is None else (equal,)
            if pieces:
                ids.append(i)
                first_pieces.append(pieces[0])
        report(at + len(batch))
    return np.array(ids, np.int64), np.array(first_pieces, np.int64)
