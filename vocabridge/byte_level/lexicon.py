"""The tokens of a vocabulary sorted by their bytes: those with one beginning are a run."""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

import numpy as np

from vocabridge.alignment import TokenKind, Vocabulary

Int8: TypeAlias = np.ndarray[Any, np.dtype[np.int8]]
Int64: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Bool: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]

Range: TypeAlias = tuple[int, int]
"""From, up to: a run of the tokens sorted by their bytes."""


class Lexicon:
    """The tokens of a vocabulary that stand for bytes, sorted by these: those with one beginning are a run.

    Attributes:
        ids: Their ids, int64 (m,).
        tokens: Their bytes, m.
        symbols: The ids of control tokens, int64 (s,).
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Sorts them."""
        spelled = [(vocabulary.token_bytes[i] or b"", i) for i in vocabulary.usable.tolist()]
        spelled.sort()
        self.tokens = [data for data, _ in spelled]
        self.ids = np.array([i for _, i in spelled], np.int64)
        self.symbols = np.flatnonzero(vocabulary.kinds == TokenKind.CONTROL)
        self._flat = np.frombuffer(b"".join(self.tokens), np.uint8)
        self._lengths = np.fromiter(map(len, self.tokens), np.int64, len(self.tokens))
        self._starts = np.cumsum(self._lengths) - self._lengths
        self.bounds = functools.lru_cache(maxsize=1 << 12)(self._bounds)

    def _bounds(self, run: Range, depth: int) -> Int64:
        """Where the tokens of a run stand that go on with each byte.

        Args:
            run: All tokens with some beginning.
            depth: The length of this beginning.

        Returns:
            (257,): those that go on with byte b from the b-th up to the next; in front of the first, those that end.
        """
        low, high = run
        low += int(np.searchsorted(self._lengths[low:high] > depth, True))  # those that end here sort first
        following = self._flat[self._starts[low:high] + depth]
        return low + np.searchsorted(following, np.arange(257))
