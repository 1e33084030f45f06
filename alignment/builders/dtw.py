"""`dtw`: dynamic time warping of two encodings by the bytes that their tokens share, in linear time.

    N[y, w] = #{bytes b: y covers b in the target's encoding, and w covers b in the source's}

A row of R holds the shares of the target token's bytes that each source token covers. This method corrects
`dtw-counts`: the cost of a pair of tokens is minus the number of bytes that they share, and not the edit distance of
their strings. In the order of the text, all overlapping pairs form a chain in which neither position moves back.
A warping path can therefore pass through all of them. The least cost is minus the number of bytes that both encodings
cover, and every path of that cost passes through every overlapping pair. One pass over the bytes finds these pairs, so
the quadratic dynamic program is not needed.

Weights are scaled by row. A rare token that always has the same partner therefore has weight 1 there, while the column
scaling of the released code leaves 0.001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vocabridge.alignment.arrays import Int64
from vocabridge.alignment.counting.counting_builder import CountingBuilder
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.tokenizers.tokens import Encoding
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class DTW(CountingBuilder):
    """Count the bytes that pairs of tokens share."""

    method: ClassVar[str] = "dtw"
    symmetric: ClassVar[bool] = True

    def count_batch(self, source: Vocabulary, target: Vocabulary, texts: Sequence[str]) -> PairCounts:
        """Count the pairs of some pieces of text; see `CountingBuilder.count_batch`."""
        encoded = zip(texts, target.encode_batch(texts), source.encode_batch(texts), strict=True)
        return PairCounts.of(np.concatenate([shared_bytes(text, y, w, target, source) for text, y, w in encoded]))


def shared_bytes(text: str, y: Encoding, w: Encoding, target: Vocabulary, source: Vocabulary) -> Int64:
    """Return the key y * |S| + w, int64, of every byte of the text that both encodings cover, in order."""
    size = len(text.encode())
    ids_y, ids_w = (
        np.append(encoding.ids.astype(np.int64), -1)[covering(encoding, vocabulary, size)]
        for encoding, vocabulary in ((y, target), (w, source))
    )
    both = (ids_y >= 0) & (ids_w >= 0)
    return ids_y[both] * source.size + ids_w[both]


def covering(encoding: Encoding, vocabulary: Vocabulary, size: int) -> Int64:
    """Return (size,) int64: for every byte of the text, the index of the token that covers it, or -1.

    A token covers as many bytes as it stands for, but none beyond the next token's start. A space that the tokenizer
    drops is covered by no token, and a control token covers no bytes.

    Args:
        encoding: The tokens of the text.
        vocabulary: The vocabulary of the encoding.
        size: The number of bytes of the text.
    """
    (tokens,) = np.nonzero(encoding.starts >= 0)
    starts = encoding.starts[tokens]
    lengths = np.minimum(vocabulary.lengths[encoding.ids[tokens]], np.diff(starts, append=size))
    positions = np.full(size, -1, np.int64)
    # The bytes of all tokens, concatenated: byte k of a token that begins there at `before` is text byte start + k.
    before = np.cumsum(lengths) - lengths
    positions[np.repeat(starts - before, lengths) + np.arange(lengths.sum())] = np.repeat(tokens, lengths)
    return positions
