"""`dtw`: the tokens of two encodings warped onto each other by the bytes they cover, in linear time.

    N[y, w] = #{bytes b: y covers b in the target's encoding, and w covers b in the source's}

so that a row of W holds the shares of the target token's bytes that each source token covers. This is
dynamic time warping (`dtw-counts`) put right: the local cost of a pair of tokens is minus the number of bytes they
share, and not how alike they look. All overlapping pairs, in the order of the text, are a chain in which neither
position ever goes back; so a warping path can pass through all of them, the least cost is minus the number
of bytes that both encodings cover, and every path of that cost passes through every overlapping pair. The
quadratic programme is not needed: walking along the bytes finds the same pairs.

Weights are row-wise, so a token that is rare but always has the same partner has it with weight 1, where the
column scaling of the released code leaves 0.001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vocabridge.alignment.counting.counting_builder import CountingBuilder
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.tokenizers.tokens import Encoding, Int64
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class DTW(CountingBuilder):
    """Count the bytes that tokens share."""

    method: ClassVar[str] = "dtw"
    symmetric: ClassVar[bool] = True

    def count_batch(self, source: Vocabulary, target: Vocabulary, texts: Sequence[str]) -> PairCounts:
        """Count the pairs of some pieces of text; see `CountingBuilder.count_batch`."""
        encoded = zip(texts, target.encode_batch(texts), source.encode_batch(texts), strict=True)
        return PairCounts.of(np.concatenate([shared_bytes(*one, target, source) for one in encoded]))


def shared_bytes(text: str, y: Encoding, w: Encoding, target: Vocabulary, source: Vocabulary) -> Int64:
    """Return y * |S| + w, int64, for every byte of the text that both encodings cover, in order."""
    size = len(text.encode())
    ids_y, ids_w = (
        np.append(encoding.ids.astype(np.int64), -1)[covering(encoding, vocabulary, size)]
        for encoding, vocabulary in ((y, target), (w, source))
    )
    both = (ids_y >= 0) & (ids_w >= 0)
    return ids_y[both] * source.size + ids_w[both]


def covering(encoding: Encoding, vocabulary: Vocabulary, size: int) -> Int64:
    """Return (size,) int64, for every byte of the text the position of the token that covers it, or -1.

    A token covers as many bytes as it stands for, up to the next token's start. So a space that the
    tokenizer skips is nobody's, nor is what a control token stands for.
    """
    (own,) = np.nonzero(encoding.starts >= 0)
    starts = encoding.starts[own]
    lengths = np.minimum(vocabulary.lengths[encoding.ids[own]], np.diff(starts, append=size))
    positions = np.full(size, -1, np.int64)
    # Byte k of a token that starts at s and is the n-th byte covered at all stands at s + k.
    before = np.cumsum(lengths) - lengths
    positions[np.repeat(starts - before, lengths) + np.arange(lengths.sum())] = np.repeat(own, lengths)
    return positions
