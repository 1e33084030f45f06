"""`edit-distance`: each target token is aligned with the nearest source token by Levenshtein distance (MinED).

    N[y, w(y)] = 1,    w(y) = the w of least Levenshtein(y, w), and of equally near ones the most frequent

Distances are between *characters*. In a token whose bytes are not UTF-8, each byte that is part of no character counts
as one character. Frequencies are those of `frequency.py`.

The search is exact. Distances 0 and 1 are found by hashing: two strings are one edit apart if they are equal with one
character masked, or if one is the other without a character. Larger distances are found by bounds. Divide the alphabet
into any classes k. The distance of two strings of n and m characters, of which n_k and m_k are of class k, is at least
max(n, m) - sum over k of min(n_k, m_k). Similar target tokens are searched together in blocks, with the largest n_k of
the block in the bound. Source tokens are compared in the order of their bounds, and a target token is finished when
its best distance is less than the next bound. rapidfuzz computes many distances at a time.

Source: Wan et al., "Knowledge Fusion of Large Language Models" (FuseLLM), arXiv 2401.10491.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from vocabridge.alignment.arrays import Bool, Int64
from vocabridge.alignment.builders.base import Builder, Progress, Reads, matrix, occurrence
from vocabridge.alignment.builders.frequency import frequencies
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_CLASSES = 16
"""The classes into which the alphabet is divided."""

_BLOCK = 64
"""Target tokens searched together: enough to fill vector registers, few enough to be similar."""

_MASK = "\ud800"
"""The masked character. No token contains it, because it is neither a character nor the replacement of a byte."""


@dataclass(frozen=True)
class EditDistance(Builder):
    """Pair every target token with the nearest source token."""

    method: ClassVar[str] = "edit-distance"
    reads: ClassVar[Reads] = Reads.IF_GIVEN

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        size = corpus.bytes if corpus else 0
        total = size + len(target.usable)
        frequency = frequencies(source, corpus, lambda done: progress(done, total))
        ids = np.array(sorted(source.canonical.values(), key=lambda w: (-frequency[w], w)), np.int64)
        choices = [characters(source.token_bytes[w] or b"") for w in ids.tolist()]
        y = target.usable if choices else target.usable[:0]
        queries = [characters(target.token_bytes[i] or b"") for i in y.tolist()]
        w = ids[nearest(queries, choices, lambda done: progress(size + done, total))]
        return matrix(y, w, occurrence(target)[y], (target.size, source.size))


def characters(data: bytes) -> str:
    """Return the characters of a token's bytes. A byte that is part of no character becomes U+DC80 to U+DCFF."""
    return data.decode("utf-8", "surrogateescape")


def nearest(queries: Sequence[str], choices: Sequence[str], report: Callable[[int], None]) -> Int64:
    """Find the choice of least Levenshtein distance for each query, and of equally near choices the first.

    Args:
        queries: n strings.
        choices: At least one string, all distinct, the preferred ones first.
        report: Called with the number of finished queries.

    Returns:
        (n,) int64, indices of choices.
    """
    best = _within_one_edit(queries, choices)
    remaining = np.flatnonzero(best < 0)
    class_of = _classes([*queries, *choices])
    query_counts = _CharacterCounts.of([queries[i] for i in remaining.tolist()], class_of)
    choice_counts = _CharacterCounts.of(choices, class_of)
    done = len(queries) - len(remaining)
    report(done)
    for block in query_counts.blocks():
        in_block = remaining[block]
        bounds, exact = query_counts.bounds(block, choice_counts)
        best[in_block] = _search([queries[i] for i in in_block.tolist()], choices, bounds, exact)
        done += len(in_block)
        report(done)
    return best


def _within_one_edit(queries: Sequence[str], choices: Sequence[str]) -> Int64:
    """Return the first choice that equals a query, else the first that is one edit away, else -1; (n,) int64.

    A choice becomes the query by one substitution if both are equal with one character masked, by one deletion if the
    query is the choice without a character, and by one insertion if the choice is the query without a character. Of
    each masked or shortened string, only its first choice is stored.
    """
    index_of = {choice: i for i, choice in enumerate(choices)}
    masked: dict[str, int] = {}
    shortened: dict[str, int] = {}
    for i, choice in enumerate(choices):
        for before, after in _splits(choice):
            masked.setdefault(before + _MASK + after, i)
            shortened.setdefault(before + after, i)
    none = len(choices)

    def first_match(query: str) -> int:
        if (equal := index_of.get(query)) is not None:
            return equal
        best = shortened.get(query, none)
        for before, after in _splits(query):
            best = min(best, masked.get(before + _MASK + after, none), index_of.get(before + after, none))
        return best if best < none else -1

    return np.fromiter(map(first_match, queries), np.int64, len(queries))


def _splits(string: str) -> Iterator[tuple[str, str]]:
    """Yield the parts before and after each character."""
    return ((string[:i], string[i + 1 :]) for i in range(len(string)))


def _search(queries: Sequence[str], choices: Sequence[str], bounds: Int64, exact: Bool) -> Int64:
    """Find the nearest choices of queries that are at least two edits from every choice.

    Args:
        queries: n strings.
        choices: m strings.
        bounds: (m,), a lower bound of the distances between all queries and each choice.
        exact: (m,), whether all these distances equal the bound.

    Returns:
        (n,) int64, indices of choices.
    """
    # Distance and index are combined in one number, whose minimum is the first of the nearest choices.
    best = np.full(len(queries), np.iinfo(np.int64).max)
    bounds = np.maximum(bounds, 2)
    for bound in range(2, int(bounds.max()) + 1):
        (unfinished,) = np.nonzero(best // len(choices) >= bound)
        if not len(unfinished):
            break
        at_bound = bounds == bound
        known = at_bound & exact
        if known.any():
            best[unfinished] = np.minimum(best[unfinished], bound * len(choices) + known.argmax())
        candidates = np.flatnonzero(at_bound & ~exact)
        if len(candidates):
            distances = cdist(
                [queries[i] for i in unfinished.tolist()],
                [choices[i] for i in candidates.tolist()],
                scorer=Levenshtein.distance,
                dtype=np.uint16,
                workers=-1,
            )
            least = distances.argmin(axis=1)
            values = distances[np.arange(len(unfinished)), least].astype(np.int64)
            best[unfinished] = np.minimum(best[unfinished], values * len(choices) + candidates[least])
    return best % len(choices)


@dataclass(frozen=True)
class _CharacterCounts:
    """The numbers that bound the distances of n strings.

    Attributes:
        lengths: (n,) int64, the characters of each string.
        spaced: (n,) bool, whether the string begins with a space.
        counts: (classes, n) uint16, the characters of each class in each string.
    """

    lengths: Int64
    spaced: Bool
    counts: np.ndarray[Any, np.dtype[np.uint16]]

    @classmethod
    def of(cls, strings: Sequence[str], class_of: Int64) -> _CharacterCounts:
        """Count the characters of n strings; `class_of` is each code point's class (see `_classes`)."""
        n = len(strings)
        lengths = np.array([len(string) for string in strings], np.int64)
        cells = class_of[_code_points(strings)] * n + np.repeat(np.arange(n), lengths)
        counts = np.bincount(cells, minlength=_CLASSES * n).reshape(_CLASSES, n).astype(np.uint16)
        return cls(lengths, np.array([string.startswith(" ") for string in strings], bool), counts)

    def blocks(self) -> list[Int64]:
        """Return blocks of indices: similar strings of one length, all or none of them with a leading space."""
        shapes = 2 * self.lengths + self.spaced
        order = np.lexsort((*self.counts[::-1], shapes))
        index_in_shape = np.arange(len(order)) - np.searchsorted(shapes[order], shapes[order])
        cuts = np.flatnonzero(index_in_shape % _BLOCK == 0)
        return np.split(order, cuts)[1:]

    def bounds(self, block: Int64, others: _CharacterCounts) -> tuple[Int64, Bool]:
        """Bound the distances between the strings of a block and each of m others.

        Returns:
            (m,) int64, lower bounds of the distances; (m,) bool, whether all distances equal the bound. They do where
            the strings have no class of characters in common except for a leading space.
        """
        common = np.zeros(len(others.lengths), np.uint16)
        for most, counts in zip(self.counts[:, block].max(axis=1), others.counts, strict=True):
            common += np.minimum(most, counts)
        bounds = np.maximum(self.lengths[block[0]], others.lengths) - common
        return bounds, common == (self.spaced[block[0]] & others.spaced)


def _classes(strings: Sequence[str]) -> Int64:
    """Divide the alphabet into classes: return (0x110000,) int64, each code point's class.

    A class is a range of code points, so that a script's characters are together. All classes have about the same
    number of characters in the strings.
    """
    counts = np.bincount(_code_points(strings), minlength=0x110000)
    before = np.cumsum(counts) - counts
    return before * _CLASSES // max(1, counts.sum())


def _code_points(strings: Sequence[str]) -> Int64:
    return np.frombuffer("".join(strings).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
