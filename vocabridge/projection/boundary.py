"""How likely the target's tokenizer is to end a token where the text ends, given what follows.

The base model has ended its last token there. A tokenizer does so before some continuations and not before others: a
word that follows a space takes the space along, so a space that is a token by itself is not followed by a word. The
weight of a continuation is how often the target's tokenizer, given the end of the text together with the continuation,
has a boundary between the two. Inside a word that depends on how the word continues (" Gir" may be one token, and
" Giraffe" " G|ira|ffe"): a continuation that ends in a letter is tried with a space behind it, which counts most, and
with several letters. Where much depends on the answer, the source is asked how the word continues (`lookahead`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from vocabridge.alignment import Vocabulary
from vocabridge.projection.config import BoundaryConfig

_SAMPLES = (b"", b"a", b"0", b" ", b"\n", b"\t")
"""One sample of each character class. Tokens that are not likely are judged by their class. Tokens without text and
punctuation, of which one says nothing about another, make up the first class, whose weight is 1."""

LETTER = _SAMPLES.index(b"a")


class Boundary:
    """Judges continuations of texts of one target vocabulary.

    Attributes:
        classes: The character class of each source token, an index into what `weights_by_class` returns, int64 (|S|,).
    """

    def __init__(self, source: Vocabulary, target: Vocabulary, config: BoundaryConfig) -> None:
        """Sort the source's tokens by character class."""
        self._target = target
        self._config = config
        self._letters = tuple(letter.encode() for letter in config.word_continuations)
        self.classes = np.array([character_class(data or b"") for data in source.token_bytes])
        self.weights_by_class = functools.lru_cache(maxsize=1 << 14)(self._weights_by_class)
        self._known = functools.lru_cache(maxsize=1 << 16)(self._weight)
        self.weight_at_end = functools.lru_cache(maxsize=1 << 12)(self._weight_at_end)

    def weights(self, text_end: bytes, rests: Sequence[bytes]) -> list[float]:
        """Return the weights of some continuations, each above 0 and at most 1.

        Args:
            text_end: The end of the text: the target's last token, and what precedes it of the same word.
            rests: The continuations; an empty one has weight 1.
        """
        return [self._known(text_end, rest) for rest in rests]

    def _weight(self, text_end: bytes, rest: bytes) -> float:
        if not text_end or not rest:
            return 1.0
        cuts = self._target.segment_batch([text_end + rest + more for more in self._followers(rest)])
        at_end, *others = [self._ends_at(len(text_end), ids) for ids in cuts]
        p_end = self._config.word_end_probability
        share = p_end * at_end + (1 - p_end) * sum(others) / len(others) if others else float(at_end)
        in_word = character_class(text_end[-1:]) == character_class(rest) == LETTER
        return max(share, self._config.unlikely_word_boundary if in_word else self._config.unlikely_boundary)

    def _weight_at_end(self, text_end: bytes, rest: bytes) -> float:
        """Return the weight of a continuation behind which a control token ends the text: nothing follows it."""
        if not text_end or not rest:
            return 1.0
        ends = self._ends_at(len(text_end), self._target.segment(text_end + rest))
        return max(float(ends), self._config.unlikely_boundary)

    def _weights_by_class(self, text_end: bytes) -> np.ndarray:
        """Return the weights of tokens of each character class, float32 (classes,)."""
        return np.array(self.weights(text_end, _SAMPLES), dtype="float32")

    def _ends_at(self, size: int, ids: Sequence[int]) -> bool:
        """Return whether one of the tokens ends at this byte."""
        for i in ids:
            size -= len(self._target.token_bytes[i] or b"")
            if size <= 0:
                break
        return size == 0

    def _followers(self, rest: bytes) -> tuple[bytes, ...]:
        """Return what is tried behind a continuation: the end of a word, then letters."""
        if rest[-1:].isspace():
            return (b"a",)
        return (b" ", *self._letters) if character_class(rest[-1:]) == LETTER else (b" ",)


def character_class(data: bytes) -> int:
    """Return the class of the first character of some bytes; what is not ASCII counts as a letter."""
    first = data[:1]
    if first >= b"\x80" or first.isalpha():
        first = b"a"
    elif first.isdigit():
        first = b"0"
    elif first not in _SAMPLES:
        first = b"\t" if first.isspace() else b""
    return _SAMPLES.index(first)
