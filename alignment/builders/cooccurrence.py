"""`cooccurrence`: how often target token y and source token w start at the same byte of the same text.

    N[y, w] = #{bytes b: y starts at b in the target's encoding, and w starts at b in the source's}

Both tokenizers encode the corpus, piece by piece. An array holds, for each byte, the source token that starts there,
and each target token is looked up in it by its own start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vocabridge.alignment.arrays import Int64
from vocabridge.alignment.counting.counting_builder import CountingBuilder
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.tokenizers.tokens import Encoding, TokenKind
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class Cooccurrence(CountingBuilder):
    """Count the tokens that start at the same byte."""

    method: ClassVar[str] = "cooccurrence"
    symmetric: ClassVar[bool] = True

    def count_batch(self, source: Vocabulary, target: Vocabulary, texts: Sequence[str]) -> PairCounts:
        """Count the pairs of some pieces of text; see `CountingBuilder.count_batch`."""
        return count_starts(source, target, texts)


def count_starts(source: Vocabulary, target: Vocabulary, texts: Sequence[str]) -> PairCounts:
    """Count the pairs of tokens that start at the same byte.

    Control tokens whose names occur in the text are skipped, because they stand for no text.
    """
    pairs = zip(target.encode_batch(texts), source.encode_batch(texts), strict=True)
    return PairCounts.of(np.concatenate([common_starts(y, w, target, source) for y, w in pairs]))


def common_starts(y: Encoding, w: Encoding, target: Vocabulary, source: Vocabulary) -> Int64:
    """Return the keys y * |S| + w of the tokens of two encodings that start at the same byte, (n,) int64."""
    y_ids, y_starts = textual_starts(y, target)
    w_ids, w_starts = textual_starts(w, source)
    source_id_at = np.full(1 + max(y_starts.max(initial=0), w_starts.max(initial=0)), -1, np.int64)
    source_id_at[w_starts] = w_ids
    partners = source_id_at[y_starts]
    has_partner = partners >= 0
    return y_ids[has_partner] * source.size + partners[has_partner]


def textual_starts(encoding: Encoding, vocabulary: Vocabulary) -> tuple[Int64, Int64]:
    """Return the ids and starts of an encoding, without control tokens and without tokens that have no start."""
    keep = (encoding.starts >= 0) & (vocabulary.kinds[encoding.ids] != TokenKind.CONTROL)
    return encoding.ids[keep].astype(np.int64), encoding.starts[keep]
