"""`cooccurrence`: how often target token y and source token w start at the same byte of the same text.

    N[y, w] = #{bytes b: y starts at b in the target's encoding, and w starts at b in the source's}

Both tokenizers encode the corpus, piece by piece, and the two sorted lists of starts are intersected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .counting import CountingBuilder, PairCounts
from .vocabulary import Encoding, Int64, Kind, Vocabulary


@dataclass(frozen=True)
class Cooccurrence(CountingBuilder):
    """Count tokens that start together."""

    method: ClassVar[str] = "cooccurrence"

    def _count_batch(self, source: Vocabulary, target: Vocabulary, texts: Sequence[str]) -> PairCounts:
        return count_starts(source, target, texts)


def count_starts(source: Vocabulary, target: Vocabulary, texts: Sequence[str]) -> PairCounts:
    """Count the pairs of tokens that start at the same byte.

    Control tokens that stand in the text are left out: what they say is not text.
    """
    pairs = zip(target.encode_batch(texts), source.encode_batch(texts), strict=True)
    return PairCounts.of(np.concatenate([common_starts(y, w, target, source) for y, w in pairs]))


def common_starts(y: Encoding, w: Encoding, target: Vocabulary, source: Vocabulary) -> Int64:
    """Return y * |S| + w for the tokens of two encodings that start at the same byte."""
    y_ids, y_starts = _textual(y, target)
    w_ids, w_starts = _textual(w, source)
    _, at_y, at_w = np.intersect1d(y_starts, w_starts, assume_unique=True, return_indices=True)
    return y_ids[at_y] * source.size + w_ids[at_w]


def _textual(encoding: Encoding, vocabulary: Vocabulary) -> tuple[Int64, Int64]:
    """Return ids and starts without control tokens and without tokens that have no start of their own."""
    keep = (encoding.starts >= 0) & (vocabulary.kinds[encoding.ids] != Kind.CONTROL)
    return encoding.ids[keep].astype(np.int64), encoding.starts[keep]
