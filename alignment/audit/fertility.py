"""Encode a text with both tokenizers: how finely each cuts it, and which tokens start at the same byte.

Fertility is the number of tokens per unit of text. A unit is a word, a number or a sequence of other marks, with one
leading space if there is one; the remaining white space between units is a unit, too. `classify` gives a unit's class,
and a token belongs to the unit in which it starts. Text is read as a stream, so memory grows with the number of
distinct pairs of tokens and not with the text.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass

import numpy as np

from vocabridge.alignment.arrays import Int64
from vocabridge.alignment.audit.figures import CLASSES, TEXT_CLASSES, Ratio
from vocabridge.alignment.builders.base import Progress
from vocabridge.alignment.builders.cooccurrence import common_starts
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.tokenizers.classes import TokenClass, classify
from vocabridge.alignment.tokenizers.tokens import Encoding, TokenKind
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_BATCH = 16
"""Pieces of text encoded together, about 1 MiB."""

_UNIT = re.compile(r" ?(?:[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,]\d+)*|(?:[^\w\s]|_)+)|\s+(?!\S)|\s+")


@dataclass(frozen=True)
class Fertility:
    """How finely both tokenizers cut the units of one class.

    Attributes:
        text_class: The class of the units; None for all classes together.
        units: The number of units.
        bytes: The number of bytes of the units.
        source_tokens: The number of source tokens that start in the units.
        target_tokens: The number of target tokens that start in the units.
    """

    text_class: TokenClass | None
    units: int
    bytes: int
    source_tokens: int
    target_tokens: int

    source_per_unit = Ratio("source_tokens", of="units")
    target_per_unit = Ratio("target_tokens", of="units")
    source_bytes = Ratio("bytes", of="source_tokens")
    target_bytes = Ratio("bytes", of="target_tokens")


def _count_units(text: str, *starts: Int64) -> Int64:
    """Count the units of a text, their bytes, and the tokens that start in them.

    Args:
        text: The text.
        starts: The starts of the tokens, an array for each tokenizer.

    Returns:
        (2 + tokenizers, classes) int64: units, bytes, and a row of tokens for each tokenizer.
    """
    units = _UNIT.findall(text)
    classes = np.array([_class_of_unit(unit.strip()) for unit in units], np.int64)
    sizes = np.array([len(unit.encode()) for unit in units], np.int64)
    ends = np.cumsum(sizes)[:-1]
    count = functools.partial(np.bincount, minlength=len(CLASSES))
    tokens = (count(classes[np.searchsorted(ends, s, side="right")]) for s in starts)
    return np.stack((count(classes), count(classes, sizes).astype(np.int64), *tokens))


@functools.lru_cache(1 << 16)
def _class_of_unit(unit: str) -> TokenClass:
    return classify(unit.encode())


class TokenCounts:
    """The tokens of one tokenizer in the text so far.

    Attributes:
        vocabulary: The tokenizer's vocabulary.
        occurrences: (size,) int64, how often each id occurs.
        unspelled: The number of bytes of the text that no token spells at its place.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.occurrences, self.unspelled = vocabulary, np.zeros(vocabulary.size, np.int64), 0

    def add(self, encoding: Encoding, text: str) -> Int64:
        """Count the tokens of one text, and return the starts of those that are not control tokens."""
        ids, starts, data = encoding.ids, encoding.starts, text.encode()
        self.occurrences += np.bincount(ids, minlength=self.vocabulary.size)
        self.unspelled += len(data)
        for i, start in zip(ids.tolist(), starts.tolist(), strict=True):
            token = self.vocabulary.token_bytes[i]
            if token is not None and start >= 0 and data.startswith(token, start):
                self.unspelled -= len(token)
        return np.maximum.accumulate(starts[self.vocabulary.kinds[ids] != TokenKind.CONTROL])


def encode_corpus(
    source: Vocabulary, target: Vocabulary, corpus: Corpus, progress: Progress
) -> tuple[TokenCounts, TokenCounts, PairCounts, tuple[Fertility, ...]]:
    """Encode a text with both tokenizers.

    Returns:
        The source's tokens; the target's tokens; the pairs of tokens that start at the same byte; and how finely both
        tokenizers cut each class of text.
    """
    source_tokens, target_tokens, pairs = TokenCounts(source), TokenCounts(target), PairCounts()
    chunks = corpus.chunks()
    units = np.zeros((4, len(CLASSES)), np.int64)
    while batch := list(itertools.islice(chunks, _BATCH)):
        keys = []
        for text, y, w in zip(batch, target.encode_batch(batch), source.encode_batch(batch), strict=True):
            units += _count_units(text, source_tokens.add(w, text), target_tokens.add(y, text))
            keys.append(common_starts(y, w, target, source))
        pairs += PairCounts.of(np.concatenate(keys))
        progress(int(units[1].sum()), corpus.bytes)
    return source_tokens, target_tokens, pairs, tuple(Fertility(c, *units[:, c].tolist()) for c in TEXT_CLASSES)
