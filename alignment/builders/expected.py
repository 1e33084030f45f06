"""`expected`: co-occurrence with what a source model expects, instead of with the one token that came.

As IBM Model 1 (Brown et al. 1993, "The Mathematics of Statistical Machine Translation", section 4.1) learns
which words translate each other without seeing which word of a sentence became which: here the "sentence" is
the source model's own next-token distribution p at a byte, and its "translation" is the one target token y
that starts there. The columns of C are fitted by EM so that the projected distribution explains the target's
tokens, maximising

    sum over positions i of log( sum_w C[y_i, w] p_i(w)  +  p_i(rest) u(y_i) )  +  sum_{y,w} a[y, w] log( C / C0 )[y, w]

    E:  E[y, w] = sum over i with y_i = y of  C[y, w] p_i(w) / ( the first logarithm's argument )
    M:  C[y, w] = ( E[y, w] + a[y, w] ) / ( sum over y of the same )

on the pattern of N0, the counts of `default`. Only the largest p_i are known; what is left, p_i(rest), may
have become any target token, each as often as it occurs in N0: u. The second sum is a Dirichlet prior (up to a
constant) against learning a few positions by heart: a = strength * N0, so that what the texts have shown counts
beside what the model expects. C0 is N0 with columns that sum to 1.

The alignment's counts are E + a: columns that sum to 1 give C, rows P(w | y) as for every other builder.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.builders.base import Builder, Progress, Reads
from vocabridge.alignment.builders.combined import Combined
from vocabridge.alignment.builders.cooccurrence import textual_starts
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.distributions import Distributions
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.sparse import sums
from vocabridge.alignment.tokenizers.tokens import Int32, Int64
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

logger = logging.getLogger("vocabridge")

Float32: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Float64: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

_TEXTS = 64
"""Texts encoded together."""

_POSITIONS = 1 << 14
"""Positions in one step of an iteration."""

_ENOUGH = 1e-4
"""The relative gain of the objective below which EM stops."""


@dataclass(frozen=True)
class Expected(Builder):
    """Fit counts so that the projected distribution explains the target's tokens.

    Attributes:
        distributions: What the source model says along texts.
        strength: What an occurrence in N0 counts beside an expected one.
        iterations: EM's iterations at most.
    """

    method: ClassVar[str] = "expected"
    reads: ClassVar[Reads] = Reads.IF_GIVEN
    distributions: Distributions
    strength: float = 1.0
    iterations: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.strength < math.inf:
            raise VocabridgeError(
                f"A prior of strength {self.strength} leaves columns undecided: give a finite number above 0."
            )

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        self.distributions.check(source)
        start = self._start(source, target, corpus, progress)
        start.sort_indices()  # `fit_columns` looks pairs up by their place
        found = observe(self.distributions, target)
        fit = fit_columns(start, found, self.strength, self.iterations, progress)
        return fit.counts

    def _start(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        """Return N0: the counts of `default` over the corpus, else over the distributions' own texts."""
        default = Combined()
        if corpus is not None:
            return default._count(source, target, corpus, progress)
        counts = PairCounts()
        for batch in _batches(self.distributions):
            counts += default.count_batch(source, target, [text for text, _ in batch])
        return default._finish(counts.matrix(source, target), source, target)


@dataclass(frozen=True)
class Observations:
    """Target tokens that start where the source model's distribution is known.

    Attributes:
        targets: (n,) int64, the token y of each position.
        ids: (n, k) int32, source ids.
        probabilities: (n, k) float32.
    """

    targets: Int64
    ids: Int32
    probabilities: Float32


@dataclass(frozen=True)
class Fit:
    """What EM found.

    Attributes:
        weights: C, (|T|, |S|) float64 CSR on the pattern of the start; each column sums to 1 or is empty.
        counts: E + a, the same pattern.
        objective: What is maximised, in nats, before each iteration and after the last: it never falls.
    """

    weights: sp.csr_array
    counts: sp.csr_array
    objective: tuple[float, ...]


def observe(distributions: Distributions, target: Vocabulary) -> Observations:
    """Encode the texts with the target's tokenizer and find the tokens that start at a known position."""
    targets: list[Int64] = [np.empty(0, np.int64)]
    positions: list[Int64] = [np.empty(0, np.int64)]
    for batch in _batches(distributions):
        encodings = target.encode_batch([text for text, _ in batch])
        for encoding, (_, (start, known)) in zip(encodings, batch, strict=True):
            y, starts = textual_starts(encoding, target)
            offsets = distributions.offsets[known] - start
            _, at_y, at = np.intersect1d(starts, offsets, assume_unique=True, return_indices=True)
            targets.append(y[at_y])
            positions.append(known.start + at)
    where = np.concatenate(positions)
    return Observations(np.concatenate(targets), distributions.ids[where], distributions.probabilities[where])


def fit_columns(
    start: sp.csr_array,
    observations: Observations,
    strength: float,
    iterations: int,
    progress: Progress = lambda done, total: None,
) -> Fit:
    """Fit C by EM, as the module says.

    Args:
        start: N0, (|T|, |S|) CSR, sorted indices, all positive: pattern, start and prior.
        observations: What C is to explain.
        strength: What an occurrence in N0 counts beside an expected one, more than 0.
        iterations: At most so many.
        progress: Told iterations done, and to do.
    """
    columns = start.indices
    share = weights = start.data / sums(start, axis=0)[columns]
    prior = strength * start.data
    chunks = list(_chunks(start, observations))
    objective: list[float] = []

    def expectation() -> Float64:
        """Return E, one number per entry of the pattern, and note the objective."""
        expected, total = np.zeros(len(weights)), float(prior @ np.log(weights / share))
        for chunk in chunks:
            joint = chunk.probabilities * weights[chunk.entries]
            explained = np.bincount(chunk.positions, joint, minlength=len(chunk.rest)) + chunk.rest
            expected += np.bincount(chunk.entries, joint / explained[chunk.positions], minlength=len(weights))
            total += float(np.log(explained).sum())
        objective.append(total)
        return expected

    expected = expectation()
    for done in range(1, iterations + 1):
        counts = expected + prior
        weights = counts / np.bincount(columns, counts, minlength=start.shape[1])[columns]
        expected = expectation()
        logger.info("expected: iteration %d, objective %.1f nats", done, objective[-1])
        progress(done, iterations)
        if objective[-1] - objective[-2] < _ENOUGH * abs(objective[-2]):
            break
    progress(iterations, iterations)

    def on_pattern(values: Float64) -> sp.csr_array:
        return sp.csr_array((values, start.indices, start.indptr), shape=start.shape)

    return Fit(on_pattern(weights), on_pattern(expected + prior), tuple(objective))


@dataclass(frozen=True)
class _Chunk:
    """Some positions, as a flat list of what may have become their target token.

    Attributes:
        entries: (m,) int64, into the data of the pattern.
        positions: (m,) int64, sorted, into `rest`.
        probabilities: (m,) float32.
        rest: (n,) float64, per position, the mass that is not in the list times how often its token occurs.
    """

    entries: Int64
    positions: Int64
    probabilities: Float32
    rest: Float64


def _chunks(start: sp.csr_array, observations: Observations) -> Iterator[_Chunk]:
    """Find the entries of the pattern that each position meets; drop positions that nothing can explain."""
    size = start.shape[1]
    keys = np.repeat(np.arange(start.shape[0], dtype=np.int64), np.diff(start.indptr)) * size + start.indices
    occurrence = sums(start, axis=1) / start.data.sum(dtype=np.float64)
    for at in range(0, len(observations.targets), _POSITIONS):
        y = observations.targets[at : at + _POSITIONS]
        p = observations.probabilities[at : at + _POSITIONS]
        wanted = y[:, None] * size + observations.ids[at : at + _POSITIONS]
        entries = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        known = (keys[entries] == wanted) & (p > 0)
        rest = np.maximum(0.0, 1.0 - p.sum(axis=1, dtype=np.float64)) * occurrence[y]
        kept = known.any(axis=1)
        positions, _ = np.nonzero(known[kept])
        yield _Chunk(entries[known], positions, p[known], rest[kept])


def _batches(distributions: Distributions) -> Iterator[list[tuple[str, tuple[int, slice]]]]:
    """Yield texts with where each starts and its positions, some at a time."""
    starts = iter(distributions.text_starts.tolist())
    batch: list[tuple[str, tuple[int, slice]]] = []
    for (text, known), start in zip(distributions.texts(), starts, strict=False):
        batch.append((text, (start, known)))
        if len(batch) == _TEXTS:
            yield batch
            batch = []
    yield batch
