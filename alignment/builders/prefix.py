"""`prefix`: a target token speaks for every source token that starts with its bytes, weighted by frequency.

    N[y, w] = f(w) P(y | w),    P(y | w) ~ p(y) G(w without y),    for every y that w starts with
    G(r) = sum of p(y) over the y that start with r  +  sum of p(y) G(r without y) over the y that r starts with

f is how often a source token occurs, p how often a target token does, as a share (`frequency.py`). G(r) is the
probability that text drawn token by token from p starts with r. So P(y | w) is the probability that text which
starts with w starts with the token y: for "and" it is "and" and hardly ever "a", which would have to be followed by
a token that starts with "nd". A row is then P(w | y), and a column of a source token that starts with any target
token at all sums to f(w).

What is longer than w is not its prefix, so a target token that no source token starts with has no row: that is the
matter of `retokenize`.

Source: the sum over covers of Vieira et al., "From Language Models over Tokens to Language Models over Characters"
(arXiv 2412.03719), with token frequencies for a language model, so that it is one static matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.builders.base import Builder, Progress, Reads, matrix, occurrence
from vocabridge.alignment.builders.frequency import frequencies
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_LEAST_SHARE = 1e-20
"""Shares of a source token below this are left out: times a rare token's frequency, single precision loses them."""


@dataclass(frozen=True)
class Prefix(Builder):
    """Pair every source token with all target tokens that it starts with."""

    method: ClassVar[str] = "prefix"
    reads: ClassVar[Reads] = Reads.IF_GIVEN

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        size = corpus.bytes if corpus else 0
        total = 2 * size + len(source.usable)
        f = frequencies(source, corpus, lambda done: progress(done, total))
        often = frequencies(target, corpus, lambda done: progress(size + done, total))
        beginnings = Beginnings.of(target, often)
        rows, columns, counts = [], [], []
        occurs = occurrence(target)
        for w in source.usable.tolist():
            data = source.token_bytes[w] or b""
            for end, share in enumerate(beginnings.shares(data), 1):
                if share >= _LEAST_SHARE:
                    for y in target.ids_of(data[:end]):
                        rows.append(y)
                        columns.append(w)
                        counts.append(f[w] * share * occurs[y])
        progress(total, total)
        entries = np.array(rows, np.int64), np.array(columns, np.int64), np.array(counts)
        return matrix(*entries, (target.size, source.size))


@dataclass(frozen=True)
class Beginnings:
    """How text starts that is drawn token by token.

    Attributes:
        chance: p, of every byte string that is a token; they sum to 1.
        begun: Of every byte string that tokens start with, the sum of their p.
    """

    chance: Mapping[bytes, float]
    begun: Mapping[bytes, float]

    @classmethod
    def of(cls, vocabulary: Vocabulary, often: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Beginnings:
        """Take the tokens of a vocabulary that its tokenizer emits.

        Args:
            vocabulary: Whose tokens.
            often: (size,), how often each id occurs; positive for those that stand for bytes.
        """
        counts = {data: float(often[i]) for data, i in vocabulary.canonical.items()}
        whole = sum(counts.values())
        chance = {data: count / whole for data, count in counts.items()}
        begun: dict[bytes, float] = {}
        for data, p in chance.items():
            for end in range(1, len(data) + 1):
                begun[data[:end]] = begun.get(data[:end], 0.0) + p
        return cls(chance, begun)

    def shares(self, data: bytes) -> list[float]:
        """Return P(the first token is data[:end] | text starts with data, and a token ends within it).

        Returns:
            One number for each end from 1 on; they sum to 1, or are all 0 where no token is a prefix. If no
            tokens at all can spell what follows a prefix, all that could be the first are judged by p alone.
        """
        n, chance = len(data), self.chance
        rest = [0.0] * n + [1.0]
        for at in range(n - 1, 0, -1):
            covers = sum(chance.get(data[at:end], 0.0) * rest[end] for end in range(at + 1, n))
            rest[at] = self.begun.get(data[at:], 0.0) + covers
        first = [chance.get(data[:end], 0.0) for end in range(1, n + 1)]
        joint = [p * q for p, q in zip(first, rest[1:], strict=True)]
        likely = joint if sum(joint) > 0 else first
        whole = sum(likely)
        return [p / whole for p in likely] if whole else likely
