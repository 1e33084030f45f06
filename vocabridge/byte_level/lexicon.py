"""The tokens of a vocabulary sorted by their bytes, so that the tokens with one prefix are a range."""

from __future__ import annotations

import functools
from typing import TypeAlias

import numpy as np

from vocabridge.alignment import TokenKind, Vocabulary
from vocabridge.alignment.arrays import Int64

TokenRange: TypeAlias = tuple[int, int]
"""The first index and the index after the last, in a `Lexicon`, of tokens with a common prefix."""


class Lexicon:
    """The m text tokens of a vocabulary, sorted by their bytes; a token's index here is its *lexicon index*.

    Attributes:
        ids: The token ids, int64 (m,).
        tokens: The bytes of each token, m.
        control_ids: The ids of the control tokens, int64 (s,).
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Sort the tokens."""
        text_tokens = [(vocabulary.token_bytes[i] or b"", i) for i in vocabulary.usable.tolist()]
        text_tokens.sort()
        self.tokens = [data for data, _ in text_tokens]
        self.ids = np.array([i for _, i in text_tokens], np.int64)
        self.control_ids = np.flatnonzero(vocabulary.kinds == TokenKind.CONTROL)
        self._flat = np.frombuffer(b"".join(self.tokens), np.uint8)
        self._lengths = np.fromiter(map(len, self.tokens), np.int64, len(self.tokens))
        self._starts = np.cumsum(self._lengths) - self._lengths
        self.bounds = functools.lru_cache(maxsize=1 << 12)(self._bounds)

    def _bounds(self, token_range: TokenRange, depth: int) -> Int64:
        """Split the tokens with a common prefix by their next byte.

        Args:
            token_range: All tokens with the prefix.
            depth: The length of the prefix in bytes.

        Returns:
            Lexicon indices, int64 (257,). The tokens with next byte b are those from entry b up to entry b + 1; the
            tokens before entry 0 are no longer than the prefix.
        """
        low, high = token_range
        low += int(np.searchsorted(self._lengths[low:high] > depth, True))  # a token that ends here sorts first
        next_bytes = self._flat[self._starts[low:high] + depth]
        return low + np.searchsorted(next_bytes, np.arange(257))
