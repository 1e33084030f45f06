"""How likely it is that the target's tokenizer ends a token where the text ends, by what follows.

The base model has ended its last token there. A tokenizer does that before some continuations and not before others: a
word that follows a space takes it along, so behind a space that is a token by itself there is no word. A
continuation therefore counts as often as the target's tokenizer, cutting the end of the text and the continuation
together, has a boundary between them. Inside a word that depends on how the word goes on (" Gir" may be one token, and
" Giraffe" " G|ira|ffe"): a continuation that ends in a letter is tried with a space behind it, which counts most, and
with several letters. Where much depends on it the source is asked how it goes on (`said`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from vocabridge.alignment import Vocabulary
from vocabridge.decoding.incremental_tokenizer import WORD_GOES_ON

UNLIKELY = 1e-6
"""What a continuation counts before which there would be no boundary."""

_UNLIKELY_IN_WORDS = 0.001
"""The same for letters behind letters, where what is tried is no proof."""

_WORD_ENDS = 0.95
"""How likely it is that a word ends with a token."""

_KINDS = (b"", b"a", b"0", b" ", b"\n", b"\t")
"""By which all tokens are judged that are not likely: a sample of each kind. Of the first kind, which counts 1, are
tokens without text and punctuation, of which one says nothing about another."""

LETTER = _KINDS.index(b"a")
_LETTERS = tuple(letter.encode() for letter in WORD_GOES_ON)


class Boundary:
    """Judges continuations of texts of one target vocabulary.

    Attributes:
        kinds: Of each token of the source, index into what `by_kind` gives, int64 (|S|,).
    """

    def __init__(self, source: Vocabulary, target: Vocabulary) -> None:
        """Sorts the source's tokens by kind."""
        self._target = target
        self.kinds = np.array([kind(data or b"") for data in source.token_bytes])
        self.by_kind = functools.lru_cache(maxsize=1 << 14)(self._by_kind)
        self._known = functools.lru_cache(maxsize=1 << 16)(self._count)
        self._known_at_end = functools.lru_cache(maxsize=1 << 12)(self._count_at_end)

    def counts(self, written: bytes, rests: Sequence[bytes]) -> list[float]:
        """What some continuations count, from a little to 1 each.

        Args:
            written: The end of the text: the target's last token, and what of the word is before it.
            rests: The continuations; an empty one counts 1.
        """
        return [self._known(written, rest) for rest in rests]

    def count_at_end(self, written: bytes, rest: bytes) -> float:
        """What a continuation counts behind which a control token ends the text: nothing is tried behind it."""
        return self._known_at_end(written, rest)

    def _count_at_end(self, written: bytes, rest: bytes) -> float:
        if not written or not rest:
            return 1.0
        return max(float(self._ends_at(len(written), self._target.segment(written + rest))), UNLIKELY)

    def _count(self, written: bytes, rest: bytes) -> float:
        if not written or not rest:
            return 1.0
        cuts = self._target.segment_batch([written + rest + more for more in _behind(rest)])
        at_end, *others = [self._ends_at(len(written), ids) for ids in cuts]
        share = _WORD_ENDS * at_end + (1 - _WORD_ENDS) * sum(others) / len(others) if others else float(at_end)
        return max(share, _UNLIKELY_IN_WORDS if kind(written[-1:]) == kind(rest) == LETTER else UNLIKELY)

    def _by_kind(self, written: bytes) -> np.ndarray:
        """What tokens of each kind count, float32 (kinds,)."""
        return np.array(self.counts(written, _KINDS), dtype="float32")

    def _ends_at(self, size: int, ids: Sequence[int]) -> bool:
        """Whether one of the tokens ends at this byte."""
        for i in ids:
            size -= len(self._target.token_bytes[i] or b"")
            if size <= 0:
                break
        return size == 0


def kind(data: bytes) -> int:
    """Of which kind something is that begins with these bytes; what is not ASCII is taken for a letter."""
    first = data[:1]
    if first >= b"\x80" or first.isalpha():
        first = b"a"
    elif first.isdigit():
        first = b"0"
    elif first not in _KINDS:
        first = b"\t" if first.isspace() else b""
    return _KINDS.index(first)


def _behind(rest: bytes) -> tuple[bytes, ...]:
    """What is tried behind a continuation: the end of a word, then letters."""
    if rest[-1:].isspace():
        return (b"a",)
    return (b" ", *_LETTERS) if kind(rest[-1:]) == LETTER else (b" ",)
