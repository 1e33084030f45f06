"""`dtw-counts`: dynamic time warping over token strings, as in the released code of Lu et al.

Both tokenizers encode a text. Let a_i be the target's tokens and b_j the source's, as characters without spaces:

    cost(i, j) = Levenshtein(a_i, b_j), times 0.1 where one of the two contains the other
    D[i, j]    = cost(i, j) + min(D[i-1, j-1], D[i-1, j], D[i, j-1])
    M[y, w]    = how often the path of least cost contains a pair (i, j) of the tokens y and w

From the counts of all pairs that occur, the released code subtracts the mean of each row, scales each column to 0..1 by
its minimum and maximum, and keeps the largest entry of each row. A row without any pair stays empty. Column scaling
compares unrelated tokens: a rare token with one certain partner gets weight 0.001, and a frequent token can lose its
partner to a rarer one. This builder selects the same entry of every row. The entry's weight does not matter for rows,
because an alignment's rows are scaled to sum to 1; for columns, the entry keeps its count M[y, w]. `dtw` is the
corrected method.

This builder differs from the released code in two points. Tokens are compared as the characters that they stand for,
and not as each tokenizer spells them. A long text is warped passage by passage.

Source: Lu et al., "Transferable Post-training via Inverse Value Learning", arXiv 2410.21027, and its code. Of equal
steps the path takes the diagonal, then up, then left, as in FuseLLM (Wan et al., arXiv 2401.10491).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import scipy.sparse as sp
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from vocabridge.alignment.arrays import Float64, Int64
from vocabridge.alignment.builders.base import matrix
from vocabridge.alignment.builders.edit_distance import characters
from vocabridge.alignment.counting.counting_builder import CountingBuilder
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.sparse import sums
from vocabridge.alignment.tokenizers.tokens import Encoding
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

Path: TypeAlias = list[tuple[int, int]]

_CONTAINED = 0.1
"""The factor of the distance where one string contains the other."""


@dataclass(frozen=True)
class DTWCounts(CountingBuilder):
    """Count the pairs of tokens on the warping path, and keep one source token for each target token.

    Attributes:
        passage: The approximate number of target tokens that are warped at once. Time and memory are quadratic in it.
            A text is cut into passages where both tokenizers start a token.
    """

    method: ClassVar[str] = "dtw-counts"
    passage: int = 1024

    def count_batch(self, source: Vocabulary, target: Vocabulary, texts: Sequence[str]) -> PairCounts:
        """Count the pairs of some pieces of text; see `CountingBuilder.count_batch`."""
        keys = [np.empty(0, np.int64)]
        for y, w in zip(target.encode_batch(texts), source.encode_batch(texts), strict=True):
            for ids_y, ids_w in _passages(_textual(y, target), _textual(w, source), self.passage):
                path = least_path(costs(_strings(ids_y, target), _strings(ids_w, source)))
                i, j = np.array(path).T
                keys.append(ids_y[i] * source.size + ids_w[j])
        return PairCounts.of(np.concatenate(keys))

    def _finish(self, counts: sp.csr_array, source: Vocabulary, target: Vocabulary) -> sp.csr_array:
        rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        # Each row's largest entry comes first, and of equal entries the lowest id, as argmax selects it.
        order = np.lexsort((counts.indices, -scaled(counts), rows))
        _, first = np.unique(rows[order], return_index=True)
        best = order[first]
        return matrix(rows[best], counts.indices[best], counts.data[best], counts.shape)


def scaled(counts: sp.csr_array) -> Float64:
    """Return the weights of the released code for the pairs that occur, (nnz,) float64.

    In a column whose entries are all equal, each has weight 1.
    """
    per_row = np.diff(counts.indptr)
    means = sums(counts, axis=1) / np.maximum(1, per_row)
    centered = counts.data - np.repeat(means, per_row)
    least, largest = np.full(counts.shape[1], np.inf), np.full(counts.shape[1], -np.inf)
    np.minimum.at(least, counts.indices, centered)
    np.maximum.at(largest, counts.indices, centered)
    low, width = least[counts.indices], (largest - least)[counts.indices]
    return np.where(width > 0, (centered - low) / np.where(width > 0, width, 1), 1.0)


def costs(a: Sequence[str], b: Sequence[str]) -> Float64:
    """Return the cost of each pair of tokens, (len(a), len(b)) float64. Repeated strings are compared once."""
    distinct_a, at_a = _distinct(a)
    distinct_b, at_b = _distinct(b)
    distance = cdist(distinct_a, distinct_b, scorer=Levenshtein.distance, dtype=np.int32)
    lengths_a, lengths_b = (np.array([len(s) for s in strings]) for strings in (distinct_a, distinct_b))
    cost = distance.astype(np.float64)
    # One string can contain the other only if the distance equals the difference of the lengths.
    for i, j in zip(*np.nonzero(distance == np.abs(lengths_a[:, None] - lengths_b)), strict=True):
        if distinct_a[i] in distinct_b[j] or distinct_b[j] in distinct_a[i]:
            cost[i, j] *= _CONTAINED
    return cost[np.ix_(at_a, at_b)]


def least_path(cost: np.ndarray[Any, Any]) -> Path:
    """Return the warping path of least cost as pairs (i, j), from (0, 0) to (n - 1, m - 1).

    It is traced back from the end. Of equal steps it takes the diagonal, then up, then left.

    Args:
        cost: (n, m), with n and m positive.
    """
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    total[1:, 1:] = cost
    # The cells of an anti-diagonal depend only on the two anti-diagonals before, and are m apart in the flat table.
    flat = total.ravel()
    for diagonal in range(n + m - 1):
        first, last = (row * m + m + diagonal + 2 for row in (max(0, diagonal - m + 1), min(n - 1, diagonal)))
        before, up, left = (flat[first - back : last - back + 1 : m] for back in (m + 2, m + 1, 1))
        flat[first : last + 1 : m] += np.minimum(before, np.minimum(up, left))
    cells, i, j = total.data, n, m
    path = [(i - 1, j - 1)]
    while i > 1 or j > 1:
        diagonally, upwards, leftwards = cells[i - 1, j - 1], cells[i - 1, j], cells[i, j - 1]
        if diagonally <= upwards and diagonally <= leftwards:
            i, j = i - 1, j - 1
        elif upwards <= leftwards:
            i -= 1
        else:
            j -= 1
        path.append((i - 1, j - 1))
    return path[::-1]


def _distinct(strings: Sequence[str]) -> tuple[list[str], Int64]:
    """Return the distinct strings, and (n,) int64, the index of each string among them."""
    index_of: dict[str, int] = {}
    indices = np.array([index_of.setdefault(string, len(index_of)) for string in strings], np.int64)
    return list(index_of), indices


def _strings(ids: Int64, vocabulary: Vocabulary) -> list[str]:
    return [characters(vocabulary.token_bytes[i] or b"").replace(" ", "") for i in ids.tolist()]


def _textual(encoding: Encoding, vocabulary: Vocabulary) -> tuple[Int64, Int64]:
    """Return the ids and starts of tokens that stand for bytes. A token without a start gets the start before it."""
    keep = vocabulary.lengths[encoding.ids] > 0
    starts = np.maximum.accumulate(encoding.starts) if len(encoding.starts) else encoding.starts
    return encoding.ids[keep].astype(np.int64), starts[keep]


def _passages(y: tuple[Int64, Int64], w: tuple[Int64, Int64], passage: int) -> Iterator[tuple[Int64, Int64]]:
    """Cut two encodings (ids, starts) at common starts into passages, and yield the two sides' ids of each passage."""
    (ids_y, starts_y), (ids_w, starts_w) = y, w
    common = np.intersect1d(starts_y, starts_w)
    cuts_y, cuts_w = np.searchsorted(starts_y, common), np.searchsorted(starts_w, common)
    # Cut at the first common start after every `passage` target tokens.
    chosen = np.unique(np.searchsorted(cuts_y, np.arange(passage, len(ids_y), passage)))
    chosen = chosen[chosen < len(common)]
    parts = zip(np.split(ids_y, cuts_y[chosen]), np.split(ids_w, cuts_w[chosen]), strict=True)
    return ((part_y, part_w) for part_y, part_w in parts if len(part_y) and len(part_w))
