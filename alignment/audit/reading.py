"""Both tokenizers read the text: which tokens they cut it into, how finely, and which of them start together.

The text is cut into units: a word, a number or a run of other marks, each with one space before it if there is
one, and the white space left between them. A unit's class is that of `classify`; a token belongs to the unit in
which it starts. Text is read as a stream; memory grows with the pairs of tokens seen and not with the text.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass

import numpy as np

from vocabridge.alignment.audit.figures import CLASSES, TEXT_CLASSES, Ratio
from vocabridge.alignment.builders.base import Progress
from vocabridge.alignment.builders.cooccurrence import common_starts
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.tokenizers.classes import TokenClass, classify
from vocabridge.alignment.tokenizers.tokens import Encoding, Int64, TokenKind
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_BATCH = 16
"""Pieces of text encoded together, about 1 MiB."""

_UNIT = re.compile(r" ?(?:[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,]\d+)*|(?:[^\w\s]|_)+)|\s+(?!\S)|\s+")


@dataclass(frozen=True)
class Fertility:
    """How finely both tokenizers cut one class of text.

    Attributes:
        text_class: The class of the units; None for all together.
        units: Units of that class.
        bytes: Their bytes.
        source_tokens: Source tokens that start in them.
        target_tokens: Target tokens that start in them.
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


def _fertility(text: str, *starts: Int64) -> Int64:
    """Return (2 + tokenizers, classes): units, their bytes, and the tokens of each tokenizer that start in them."""
    units = _UNIT.findall(text)
    classes = np.array([_class_of_unit(unit.strip()) for unit in units], np.int64)
    sizes = np.array([len(unit.encode()) for unit in units], np.int64)
    ends = np.cumsum(sizes)[:-1]
    count = functools.partial(np.bincount, minlength=len(CLASSES))
    in_units = (count(classes[np.searchsorted(ends, s, side="right")]) for s in starts)
    return np.stack((count(classes), count(classes, sizes).astype(np.int64), *in_units))


@functools.lru_cache(1 << 16)
def _class_of_unit(unit: str) -> TokenClass:
    return classify(unit.encode())


class Reader:
    """What one tokenizer makes of the text, adding up.

    Attributes:
        vocabulary: The tokenizer's vocabulary.
        tokens: (size,) int64, occurrences of each id.
        unspelled: Bytes of the text that no token spells where it stands.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.tokens, self.unspelled = vocabulary, np.zeros(vocabulary.size, np.int64), 0

    def add(self, encoding: Encoding, text: str) -> Int64:
        """Take one text, and return where its tokens start, but for control tokens."""
        ids, starts, data = encoding.ids, encoding.starts, text.encode()
        self.tokens += np.bincount(ids, minlength=self.vocabulary.size)
        self.unspelled += len(data)
        for i, start in zip(ids.tolist(), starts.tolist(), strict=True):
            own = self.vocabulary.token_bytes[i]
            if own is not None and start >= 0 and data.startswith(own, start):
                self.unspelled -= len(own)
        return np.maximum.accumulate(starts[self.vocabulary.kinds[ids] != TokenKind.CONTROL])


def read(
    source: Vocabulary, target: Vocabulary, corpus: Corpus, progress: Progress
) -> tuple[Reader, Reader, PairCounts, tuple[Fertility, ...]]:
    """Read a text.

    Returns:
        What the source tokenizer makes of it, and the target tokenizer; the pairs of tokens that start together;
        how finely both cut each class of text.
    """
    by_source, by_target, pairs, chunks = Reader(source), Reader(target), PairCounts(), corpus.chunks()
    cut = np.zeros((4, len(CLASSES)), np.int64)
    while batch := list(itertools.islice(chunks, _BATCH)):
        keys = []
        for text, y, w in zip(batch, target.encode_batch(batch), source.encode_batch(batch), strict=True):
            cut += _fertility(text, by_source.add(w, text), by_target.add(y, text))
            keys.append(common_starts(y, w, target, source))
        pairs += PairCounts.of(np.concatenate(keys))
        progress(int(cut[1].sum()), corpus.bytes)
    return by_source, by_target, pairs, tuple(Fertility(c, *cut[:, c].tolist()) for c in TEXT_CLASSES)
