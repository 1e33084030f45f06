"""Boundary weights: how likely the target's tokenizer is to end a token where the text ends, given a continuation.

The base model has ended its last token there. A tokenizer does so before some continuations and not before others. For
example, a word takes a space in front of it along, so no word follows a space that is a token by itself.

The boundary weight of a continuation is how often the target's tokenizer, given the end of the text and the
continuation, has a boundary between the two. Inside a word that depends on how the word continues: " Gir" may be one
token, while " Giraffe" is cut " G|ira|ffe". So a continuation that ends in a letter is tried with a space after it,
which counts most, and with several letters. Where much depends on the weight, `lookahead` uses the source's own
prediction of how the word continues.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from vocabridge.alignment import Vocabulary
from vocabridge.projection.config import BoundaryConfig

_SAMPLES = (b"", b"a", b"0", b" ", b"\n", b"\t")
"""One sample of each character class. An unlikely token gets the boundary weight of its class's sample. The first class
is of tokens without text and of punctuation; its weight is 1, because no sample is typical of it."""

LETTER = _SAMPLES.index(b"a")


class Boundary:
    """Computes the boundary weights of continuations, for one source and one target vocabulary.

    Attributes:
        classes: The character class of each source token, an index into the result of `weights_by_class`, int64 (|S|,).
    """

    def __init__(self, source: Vocabulary, target: Vocabulary, config: BoundaryConfig) -> None:
        """Classify the source's tokens by their first characters."""
        self._target = target
        self._config = config
        self._letters = tuple(letter.encode() for letter in config.word_continuations)
        self.classes = np.array([character_class(data or b"") for data in source.token_bytes])
        self.weights_by_class = functools.lru_cache(maxsize=1 << 14)(self._weights_by_class)
        self._cached_weight = functools.lru_cache(maxsize=1 << 16)(self._weight)
        self.weight_at_end = functools.lru_cache(maxsize=1 << 12)(self._weight_at_end)

    def weights(self, text_end: bytes, rests: Sequence[bytes]) -> list[float]:
        """Return the boundary weights of some continuations, each above 0 and at most 1.

        Args:
            text_end: The end of the text: the target's last token, and the tokens before it of the same word.
            rests: The continuations; an empty one has weight 1.
        """
        return [self._cached_weight(text_end, rest) for rest in rests]

    def _weight(self, text_end: bytes, rest: bytes) -> float:
        if not text_end or not rest:
            return 1.0
        cuts = self._target.segment_batch([text_end + rest + follower for follower in self._followers(rest)])
        at_word_end, *in_longer_words = [self._ends_at(len(text_end), ids) for ids in cuts]
        p_end = self._config.word_end_probability
        weight = float(at_word_end)
        if in_longer_words:
            weight = p_end * at_word_end + (1 - p_end) * sum(in_longer_words) / len(in_longer_words)
        in_word = character_class(text_end[-1:]) == character_class(rest) == LETTER
        return max(weight, self._config.unlikely_word_boundary if in_word else self._config.unlikely_boundary)

    def _weight_at_end(self, text_end: bytes, rest: bytes) -> float:
        """Return the boundary weight of a continuation after which a control token ends the text."""
        if not text_end or not rest:
            return 1.0
        ends = self._ends_at(len(text_end), self._target.segment(text_end + rest))
        return max(float(ends), self._config.unlikely_boundary)

    def _weights_by_class(self, text_end: bytes) -> np.ndarray:
        """Return the boundary weight of each character class, float32 (classes,)."""
        return np.array(self.weights(text_end, _SAMPLES), dtype="float32")

    def _ends_at(self, size: int, ids: Sequence[int]) -> bool:
        """Return whether one of the target tokens ends after `size` bytes."""
        for i in ids:
            size -= len(self._target.token_bytes[i] or b"")
            if size <= 0:
                break
        return size == 0

    def _followers(self, rest: bytes) -> tuple[bytes, ...]:
        """Return the bytes that are tried after a continuation: first what ends a word, then letters."""
        if rest[-1:].isspace():
            return (b"a",)
        return (b" ", *self._letters) if character_class(rest[-1:]) == LETTER else (b" ",)


def character_class(data: bytes) -> int:
    """Return the class of the first character of some bytes, an index into `_SAMPLES`; non-ASCII counts as a letter."""
    first = data[:1]
    if first >= b"\x80" or first.isalpha():
        first = b"a"
    elif first.isdigit():
        first = b"0"
    elif first not in _SAMPLES:
        first = b"\t" if first.isspace() else b""
    return _SAMPLES.index(first)
