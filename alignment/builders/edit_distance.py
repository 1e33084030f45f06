"""`edit-distance`: every target token and the source token nearest to it (MinED).

    N[y, w(y)] = 1,    w(y) = the w of least Levenshtein(y, w); of equally near ones the most frequent

Distances are between the *characters* that the tokens stand for; of a token whose bytes are not UTF-8, each
byte that is part of no character counts as one. The frequency is that of `frequency.py`.

The search is exact. Distances 0 and 1 are found by hashing: two strings are one edit apart if they are equal
with one character masked, or one is the other without a character. For the rest, two strings of n and m
characters, n_k and m_k of them of class k, are at least max(n, m) - sum over k of min(n_k, m_k) apart, for
any division of the alphabet into classes k. Targets are searched in blocks of alike ones, whose largest n_k
bound them all: source tokens are compared in the order of their bounds, and a target is done when what it
has is nearer than the next bound. rapidfuzz compares many at a time.

Source: Wan et al., "Knowledge Fusion of Large Language Models" (FuseLLM), arXiv 2401.10491.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import scipy.sparse as sp
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from vocabridge.alignment.builders.base import Builder, Progress, Reads, matrix, occurrence
from vocabridge.alignment.builders.frequency import frequencies
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.tokenizers.tokens import Int64
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

Bool: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

_CLASSES = 16
_BLOCK = 64
"""Targets searched together: enough to fill the lanes of vector registers, few enough to be alike."""
_MASK = "\ud800"
"""Stands for any one character; no token has it, as it is neither a character nor what a byte becomes."""


@dataclass(frozen=True)
class EditDistance(Builder):
    """Pair every target token with the nearest source token."""

    method: ClassVar[str] = "edit-distance"
    reads: ClassVar[Reads] = Reads.IF_GIVEN

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        size = corpus.bytes if corpus else 0
        total = size + len(target.usable)
        often = frequencies(source, corpus, lambda done: progress(done, total))
        ids = np.array(sorted(source.canonical.values(), key=lambda w: (-often[w], w)), np.int64)
        choices = [characters(source.token_bytes[w] or b"") for w in ids.tolist()]
        y = target.usable if choices else target.usable[:0]
        queries = [characters(target.token_bytes[i] or b"") for i in y.tolist()]
        w = ids[nearest(queries, choices, lambda done: progress(size + done, total))]
        return matrix(y, w, occurrence(target)[y], (target.size, source.size))


def characters(data: bytes) -> str:
    """Return the characters of a token's bytes; a byte that is part of none becomes U+DC80 to U+DCFF."""
    return data.decode("utf-8", "surrogateescape")


def nearest(queries: Sequence[str], choices: Sequence[str], tell: Callable[[int], None]) -> Int64:
    """Find for each query the choice of least Levenshtein distance; of equally near ones the first.

    Args:
        queries: n strings.
        choices: At least one string, no two alike, the preferred ones first.
        tell: Called with the number of queries answered.

    Returns:
        (n,) int64, positions among the choices.
    """
    found = _within_one(queries, choices)
    left = np.flatnonzero(found < 0)
    class_of = _classes([*queries, *choices])
    asked = _Described.of([queries[i] for i in left.tolist()], class_of)
    offered = _Described.of(choices, class_of)
    done = len(queries) - len(left)
    tell(done)
    for block in asked.blocks():
        at = left[block]
        bounds, exact = asked.bounds(block, offered)
        found[at] = _search([queries[i] for i in at.tolist()], choices, bounds, exact)
        done += len(at)
        tell(done)
    return found


def _within_one(queries: Sequence[str], choices: Sequence[str]) -> Int64:
    """Answer the queries that a choice is equal to or one edit away from; -1 for the others.

    A choice becomes the query by one substitution if they are equal with one character of both masked, by
    one deletion if the query is the choice without a character, by one insertion if the reverse. The first
    choice of each masked or shortened string is all that need be remembered.
    """
    whole = {choice: i for i, choice in enumerate(choices)}
    masked: dict[str, int] = {}
    shortened: dict[str, int] = {}
    for i, choice in enumerate(choices):
        for before, after in _splits(choice):
            masked.setdefault(before + _MASK + after, i)
            shortened.setdefault(before + after, i)
    none = len(choices)

    def answer(query: str) -> int:
        if (same := whole.get(query)) is not None:
            return same
        best = shortened.get(query, none)
        for before, after in _splits(query):
            best = min(best, masked.get(before + _MASK + after, none), whole.get(before + after, none))
        return best if best < none else -1

    return np.fromiter(map(answer, queries), np.int64, len(queries))


def _splits(string: str) -> Iterator[tuple[str, str]]:
    """Yield what stands before and after each character."""
    return ((string[:i], string[i + 1 :]) for i in range(len(string)))


def _search(queries: Sequence[str], choices: Sequence[str], bounds: Int64, exact: Bool) -> Int64:
    """Answer queries that are at least two edits from every choice.

    Args:
        queries: n strings.
        choices: m strings.
        bounds: (m,), what no query is nearer to a choice than.
        exact: (m,), where every query is just as far as that.

    Returns:
        (n,) int64, positions among the choices.
    """
    # Distance and place as one number, so that the least is the nearest and then the first.
    best = np.full(len(queries), np.iinfo(np.int64).max)
    bounds = np.maximum(bounds, 2)
    for bound in range(2, int(bounds.max()) + 1):
        (open_,) = np.nonzero(best // len(choices) >= bound)
        if not len(open_):
            break
        here = bounds == bound
        known = here & exact
        if known.any():
            best[open_] = np.minimum(best[open_], bound * len(choices) + known.argmax())
        places = np.flatnonzero(here & ~exact)
        if len(places):
            distances = cdist(
                [queries[i] for i in open_.tolist()],
                [choices[i] for i in places.tolist()],
                scorer=Levenshtein.distance,
                dtype=np.uint16,
                workers=-1,
            )
            least = distances.argmin(axis=1)
            values = distances[np.arange(len(open_)), least].astype(np.int64)
            best[open_] = np.minimum(best[open_], values * len(choices) + places[least])
    return best % len(choices)


@dataclass(frozen=True)
class _Described:
    """What bounds the distances of n strings.

    Attributes:
        lengths: (n,) int64, their characters.
        spaced: (n,) bool, whether a space comes first.
        counts: (classes, n) uint16, their characters of each class.
    """

    lengths: Int64
    spaced: Bool
    counts: np.ndarray[Any, np.dtype[np.uint16]]

    @classmethod
    def of(cls, strings: Sequence[str], class_of: Int64) -> _Described:
        """Describe strings."""
        n = len(strings)
        lengths = np.array([len(string) for string in strings], np.int64)
        cells = class_of[_code_points(strings)] * n + np.repeat(np.arange(n), lengths)
        counts = np.bincount(cells, minlength=_CLASSES * n).reshape(_CLASSES, n).astype(np.uint16)
        return cls(lengths, np.array([string.startswith(" ") for string in strings], bool), counts)

    def blocks(self) -> list[Int64]:
        """Return blocks of positions: alike strings of one length, all or none with a space in front."""
        kinds = 2 * self.lengths + self.spaced
        order = np.lexsort((*self.counts[::-1], kinds))
        within = np.arange(len(order)) - np.searchsorted(kinds[order], kinds[order])
        cuts = np.flatnonzero(within % _BLOCK == 0)
        return np.split(order, cuts)[1:]

    def bounds(self, block: Int64, others: _Described) -> tuple[Int64, Bool]:
        """Bound the distances between the strings of a block and each of m others.

        Returns:
            (m,) int64, what no distance is less than; (m,) bool, where every distance is just that: the
            strings have no class of characters in common, or the space in front and no more.
        """
        common = np.zeros(len(others.lengths), np.uint16)
        for most, counts in zip(self.counts[:, block].max(axis=1), others.counts, strict=True):
            common += np.minimum(most, counts)
        bounds = np.maximum(self.lengths[block[0]], others.lengths) - common
        return bounds, common == (self.spaced[block[0]] & others.spaced)


def _classes(strings: Sequence[str]) -> Int64:
    """Divide the alphabet: return (0x110000,) int64, each code point's class.

    Neighbours go together, so that scripts do, and each class has about as many characters of the strings.
    """
    counts = np.bincount(_code_points(strings), minlength=0x110000)
    before = np.cumsum(counts) - counts
    return before * _CLASSES // max(1, counts.sum())


def _code_points(strings: Sequence[str]) -> Int64:
    return np.frombuffer("".join(strings).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
