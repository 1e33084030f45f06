"""`prefix`: a target token is aligned with every source token that starts with its bytes, weighted by frequency.

    N[y, w] = f(w) P(y | w),    P(y | w) ~ p(y) G(w without y),    for every y that w starts with
    G(r) = sum of p(y) over the y that start with r  +  sum of p(y) G(r without y) over the y that r starts with

f(w) is the frequency of a source token, and p(y) the relative frequency of a target token (`frequency.py`). G(r) is the
probability that text drawn token by token from p starts with r. P(y | w) is therefore the probability that text which
starts with the bytes of w has y as its first token. For "and" this is mostly "and" and hardly ever "a", because a
token that starts with "nd" would have to follow. Scaling a row gives P(w | y). The column of a source token that starts
with any target token sums to f(w).

A target token with which no source token starts has an empty row; `retokenize` covers such tokens.

Source: the sum over covers of Vieira et al., "From Language Models over Tokens to Language Models over Characters"
(arXiv 2412.03719), with token frequencies in place of a language model, which gives one static matrix.
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
"""The least P(y | w) that is kept. Below it, the product with a rare token's frequency underflows in float32."""


@dataclass(frozen=True)
class Prefix(Builder):
    """Pair every source token with all target tokens that it starts with."""

    method: ClassVar[str] = "prefix"
    reads: ClassVar[Reads] = Reads.IF_GIVEN

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        size = corpus.bytes if corpus else 0
        total = 2 * size + len(source.usable)
        f = frequencies(source, corpus, lambda done: progress(done, total))
        target_frequencies = frequencies(target, corpus, lambda done: progress(size + done, total))
        first_tokens = FirstTokens.of(target, target_frequencies)
        rows, columns, counts = [], [], []
        target_occurrence = occurrence(target)
        for w in source.usable.tolist():
            data = source.token_bytes[w] or b""
            for end, share in enumerate(first_tokens.shares(data), 1):
                if share >= _LEAST_SHARE:
                    for y in target.ids_of(data[:end]):
                        rows.append(y)
                        columns.append(w)
                        counts.append(f[w] * share * target_occurrence[y])
        progress(total, total)
        entries = np.array(rows, np.int64), np.array(columns, np.int64), np.array(counts)
        return matrix(*entries, (target.size, source.size))


@dataclass(frozen=True)
class FirstTokens:
    """The distribution of the first token of a text that is drawn token by token.

    Attributes:
        probability: p of each token, keyed by its bytes. The probabilities sum to 1.
        prefix_probability: For each byte string with which tokens start, the sum of their p.
    """

    probability: Mapping[bytes, float]
    prefix_probability: Mapping[bytes, float]

    @classmethod
    def of(cls, vocabulary: Vocabulary, frequency: np.ndarray[tuple[int], np.dtype[np.float64]]) -> FirstTokens:
        """Make the distribution of the tokens that a vocabulary's tokenizer emits.

        Args:
            vocabulary: The vocabulary.
            frequency: (size,), the frequency of each id; positive for ids that stand for bytes.
        """
        frequency_of = {data: float(frequency[i]) for data, i in vocabulary.canonical.items()}
        total = sum(frequency_of.values())
        probability = {data: f / total for data, f in frequency_of.items()}
        prefix_probability: dict[bytes, float] = {}
        for data, p in probability.items():
            for end in range(1, len(data) + 1):
                prefix_probability[data[:end]] = prefix_probability.get(data[:end], 0.0) + p
        return cls(probability, prefix_probability)

    def shares(self, data: bytes) -> list[float]:
        """Return P(the first token is data[:end] | text starts with data, and a token ends within it).

        Returns:
            One number for each end from 1 to len(data). The numbers sum to 1, or are all 0 if no token is a prefix of
            data. If tokens can spell the rest of data after none of the prefixes, the prefixes are weighted by p alone.
        """
        n, p = len(data), self.probability
        rest_probability = [0.0] * n + [1.0]  # G(data[at:])
        for at in range(n - 1, 0, -1):
            covers = sum(p.get(data[at:end], 0.0) * rest_probability[end] for end in range(at + 1, n))
            rest_probability[at] = self.prefix_probability.get(data[at:], 0.0) + covers
        first = [p.get(data[:end], 0.0) for end in range(1, n + 1)]
        joint = [p_first * g for p_first, g in zip(first, rest_probability[1:], strict=True)]
        weights = joint if sum(joint) > 0 else first
        total = sum(weights)
        return [weight / total for weight in weights] if total else weights
