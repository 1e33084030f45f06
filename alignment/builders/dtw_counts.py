"""`dtw-counts`: dynamic time warping over token strings, as the paper's released code has it.

Both tokenizers encode a text; with a_i the target's tokens and b_j the source's, as characters and without
spaces,

    cost(i, j) = Levenshtein(a_i, b_j), a tenth of it where one of the two contains the other
    D[i, j]    = cost(i, j) + min(D[i-1, j-1], D[i-1, j], D[i, j-1])
    M[y, w]    = how often y and w stand opposite each other on the least path back from the end

Of the counts, on the pairs that were ever seen, the code subtracts the mean of each row, scales each column
to 0..1 by its least and largest, and keeps the largest of each row; a row never seen stays empty. Column
scaling compares tokens that have nothing to do with each other: a rare token with one certain partner is
left with weight 0.001, and a frequent one can lose its partner to a rarer. This builder makes the same choice
for every row. An alignment's rows sum to 1, so the weight of a row's only entry is moot there; for the columns,
the pair keeps its count M[y, w]. `dtw` is the method put right.

Two things are not the code's: tokens are compared as the characters they stand for, not as two alphabets
spell them, and a long text is warped passage by passage.

Source: Lu et al., "Transferable Post-training via Inverse Value Learning", arXiv 2410.21027, and its code; of
equal ways the path takes the diagonal, then up, then left, as in FuseLLM (Wan et al., arXiv 2401.10491).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import scipy.sparse as sp
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from vocabridge.alignment.builders.base import matrix
from vocabridge.alignment.builders.edit_distance import characters
from vocabridge.alignment.builders.frequency import Float64
from vocabridge.alignment.counting.counting_builder import CountingBuilder
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.sparse import sums
from vocabridge.alignment.tokenizers.tokens import Encoding, Int64
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

Path: TypeAlias = list[tuple[int, int]]

_CONTAINED = 0.1


@dataclass(frozen=True)
class DTWCounts(CountingBuilder):
    """Count tokens that stand opposite each other on the warping path; keep one source token a row.

    Attributes:
        passage: About how many target tokens are warped at once. Time and memory are quadratic in it, so a
            text is cut where both tokenizers start a token.
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
        # The largest of each row comes first and, of equal ones, the lowest id, as an arg-max finds it.
        order = np.lexsort((counts.indices, -scaled(counts), rows))
        _, first = np.unique(rows[order], return_index=True)
        kept = order[first]
        return matrix(rows[kept], counts.indices[kept], counts.data[kept], counts.shape)


def scaled(counts: sp.csr_array) -> Float64:
    """Return (nnz,) float64: the weights of the released code, on the pairs that were seen.

    A column whose entries are all equal has no scale; they count 1.
    """
    per_row = np.diff(counts.indptr)
    means = sums(counts, axis=1) / np.maximum(1, per_row)
    centred = counts.data - np.repeat(means, per_row)
    least, largest = np.full(counts.shape[1], np.inf), np.full(counts.shape[1], -np.inf)
    np.minimum.at(least, counts.indices, centred)
    np.maximum.at(largest, counts.indices, centred)
    low, width = least[counts.indices], (largest - least)[counts.indices]
    return np.where(width > 0, (centred - low) / np.where(width > 0, width, 1), 1.0)


def costs(a: Sequence[str], b: Sequence[str]) -> Float64:
    """Return (len(a), len(b)) float64, what each pair of tokens costs; every pair of strings is compared once."""
    kinds_a, at_a = _distinct(a)
    kinds_b, at_b = _distinct(b)
    distance = cdist(kinds_a, kinds_b, scorer=Levenshtein.distance, dtype=np.int32)
    lengths_a, lengths_b = (np.array([len(s) for s in kinds]) for kinds in (kinds_a, kinds_b))
    cost = distance.astype(np.float64)
    # Only where the distance is what the lengths differ by can one contain the other.
    for i, j in zip(*np.nonzero(distance == np.abs(lengths_a[:, None] - lengths_b)), strict=True):
        if kinds_a[i] in kinds_b[j] or kinds_b[j] in kinds_a[i]:
            cost[i, j] *= _CONTAINED
    return cost[np.ix_(at_a, at_b)]


def least_path(cost: np.ndarray[Any, Any]) -> Path:
    """Return the warping path of least cost; of equal ways back it goes diagonal, then up, then left.

    Args:
        cost: (n, m) numbers, both positive.
    """
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    total[1:, 1:] = cost
    # The cells of an anti-diagonal depend on the two before it only, and lie m apart in the flat table.
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
    """Return the distinct strings, and (n,) int64, which of them each string is."""
    places: dict[str, int] = {}
    at = np.array([places.setdefault(string, len(places)) for string in strings], np.int64)
    return list(places), at


def _strings(ids: Int64, vocabulary: Vocabulary) -> list[str]:
    return [characters(vocabulary.token_bytes[i] or b"").replace(" ", "") for i in ids.tolist()]


def _textual(encoding: Encoding, vocabulary: Vocabulary) -> tuple[Int64, Int64]:
    """Return ids and starts of the tokens that stand for bytes; a token without a start has the one before."""
    keep = vocabulary.lengths[encoding.ids] > 0
    starts = np.maximum.accumulate(encoding.starts) if len(encoding.starts) else encoding.starts
    return encoding.ids[keep].astype(np.int64), starts[keep]


def _passages(y: tuple[Int64, Int64], w: tuple[Int64, Int64], passage: int) -> Iterator[tuple[Int64, Int64]]:
    """Cut two encodings, ids and starts each, into passages that begin at the same byte; yield their ids."""
    (ids_y, starts_y), (ids_w, starts_w) = y, w
    common = np.intersect1d(starts_y, starts_w)
    cuts_y, cuts_w = np.searchsorted(starts_y, common), np.searchsorted(starts_w, common)
    # The first common start at or after every so many target tokens.
    chosen = np.unique(np.searchsorted(cuts_y, np.arange(passage, len(ids_y), passage)))
    chosen = chosen[chosen < len(common)]
    parts = zip(np.split(ids_y, cuts_y[chosen]), np.split(ids_w, cuts_w[chosen]), strict=True)
    return ((part_y, part_w) for part_y, part_w in parts if len(part_y) and len(part_w))
