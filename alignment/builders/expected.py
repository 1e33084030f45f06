"""`expected`: co-occurrence of target tokens with the source model's next-token distribution, fitted by EM.

The method follows IBM Model 1 (Brown et al. 1993, "The Mathematics of Statistical Machine Translation", section 4.1),
which learns how words translate without knowing which word of a sentence became which. Here the "sentence" is the
source model's next-token distribution p_i at a byte, and its "translation" is the target token y_i that starts there.
EM fits the columns of C so that the projected distribution predicts the target's tokens. It maximizes

    sum over positions i of log( sum_w C[y_i, w] p_i(w)  +  p_i(rest) u(y_i) )  +  sum_{y,w} a[y, w] log( C / C0 )[y, w]

    E:  E[y, w] = sum over i with y_i = y of  C[y, w] p_i(w) / ( the first logarithm's argument )
    M:  C[y, w] = ( E[y, w] + a[y, w] ) / ( sum over y of the same )

on the sparsity pattern of N0, the counts of `default`. Only the largest p_i are known. The remaining mass p_i(rest) is
spread over the target tokens by their frequency u in N0. The second sum is a Dirichlet prior (up to a constant) that
prevents overfitting to a few positions: a = strength * N0, so the counts of the texts have weight beside the model's
distributions. C0 is N0 with columns that sum to 1.

The alignment's counts are E + a. Scaling columns to sum to 1 gives C, and scaling rows gives P(w | y).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.arrays import Float32, Float64, Int32, Int64
from vocabridge.alignment.builders.base import Builder, Progress, Reads, no_progress
from vocabridge.alignment.builders.combined import Combined
from vocabridge.alignment.builders.cooccurrence import textual_starts
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.distributions import Distributions
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.sparse import sums
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

logger = logging.getLogger("vocabridge")


_TEXTS = 64
"""Texts encoded together."""

_POSITIONS = 1 << 14
"""Positions that are looked up together."""

_LEAST_GAIN = 1e-4
"""The relative gain of the objective below which EM stops."""


@dataclass(frozen=True)
class Expected(Builder):
    """Fit counts so that the projected distribution predicts the target's tokens.

    Attributes:
        distributions: The source model's next-token distributions along texts.
        strength: The weight of an occurrence in N0, where an expected occurrence has weight 1.
        iterations: The maximum number of EM iterations.

    Raises:
        VocabridgeError: The strength is not a finite number above 0.
    """

    method: ClassVar[str] = "expected"
    reads: ClassVar[Reads] = Reads.IF_GIVEN
    distributions: Distributions
    strength: float = 1.0
    iterations: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.strength < math.inf:
            raise VocabridgeError(
                f"the strength of the prior is {self.strength}, which leaves columns undetermined; give a finite "
                "number above 0"
            )

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        self.distributions.check(source)
        start = self._start(source, target, corpus, progress)
        start.sort_indices()  # `fit_columns` finds pairs by binary search
        observations = observe(self.distributions, target)
        return fit_columns(start, observations, self.strength, self.iterations, progress).counts

    def _start(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        """Return N0: the counts of `default` on the corpus or, without one, on the texts of the distributions."""
        default = Combined()
        if corpus is not None:
            return default._count(source, target, corpus, progress)
        counts = PairCounts()
        for batch in _batches(self.distributions):
            counts += default.count_batch(source, target, [text for text, _, _ in batch])
        return default._finish(counts.matrix(source, target), source, target)


@dataclass(frozen=True)
class Observations:
    """The target tokens that start where the source model's distribution is known.

    Attributes:
        targets: (n,) int64, the target token y_i of each position.
        ids: (n, k) int32, source ids.
        probabilities: (n, k) float32, p_i of these ids.
    """

    targets: Int64
    ids: Int32
    probabilities: Float32


@dataclass(frozen=True)
class FittedColumns:
    """The result of EM.

    Attributes:
        weights: C, (|T|, |S|) float64 CSR on the pattern of N0. Each column sums to 1 or is empty.
        counts: E + a, on the same pattern.
        objective: The objective in nats, before each iteration and after the last. It never falls.
    """

    weights: sp.csr_array
    counts: sp.csr_array
    objective: tuple[float, ...]


def observe(distributions: Distributions, target: Vocabulary) -> Observations:
    """Encode the texts with the target's tokenizer, and select the tokens that start where a distribution is known."""
    targets: list[Int64] = [np.empty(0, np.int64)]
    positions: list[Int64] = [np.empty(0, np.int64)]
    for batch in _batches(distributions):
        encodings = target.encode_batch([text for text, _, _ in batch])
        for encoding, (_, text_start, known) in zip(encodings, batch, strict=True):
            y, starts = textual_starts(encoding, target)
            offsets = distributions.offsets[known] - text_start
            _, in_y, in_known = np.intersect1d(starts, offsets, assume_unique=True, return_indices=True)
            targets.append(y[in_y])
            positions.append(known.start + in_known)
    selected = np.concatenate(positions)
    return Observations(np.concatenate(targets), distributions.ids[selected], distributions.probabilities[selected])


def fit_columns(
    start: sp.csr_array,
    observations: Observations,
    strength: float,
    iterations: int,
    progress: Progress = no_progress,
) -> FittedColumns:
    """Fit C by EM; see the module's equations.

    Args:
        start: N0, (|T|, |S|) CSR with sorted indices and positive entries: the pattern, the start and the prior.
        observations: The target tokens that C shall predict.
        strength: The weight of an occurrence in N0, where an expected occurrence has weight 1; above 0.
        iterations: The maximum number of iterations.
        progress: Called with the iterations done and the maximum.
    """
    columns = start.indices
    start_weights = weights = start.data / sums(start, axis=0)[columns]
    prior = strength * start.data
    chunks = list(_chunks(start, observations))
    objective: list[float] = []

    def expectation() -> Float64:
        """Return E, one number per entry of the pattern, and record the objective."""
        expected, log_likelihood = np.zeros(len(weights)), float(prior @ np.log(weights / start_weights))
        for chunk in chunks:
            joint = chunk.probabilities * weights[chunk.entries]
            predicted = np.bincount(chunk.positions, joint, minlength=len(chunk.rest)) + chunk.rest
            expected += np.bincount(chunk.entries, joint / predicted[chunk.positions], minlength=len(weights))
            log_likelihood += float(np.log(predicted).sum())
        objective.append(log_likelihood)
        return expected

    expected = expectation()
    for done in range(1, iterations + 1):
        counts = expected + prior
        weights = counts / np.bincount(columns, counts, minlength=start.shape[1])[columns]
        expected = expectation()
        logger.info("expected: iteration %d, objective %.1f nats", done, objective[-1])
        progress(done, iterations)
        if objective[-1] - objective[-2] < _LEAST_GAIN * abs(objective[-2]):
            break
    progress(iterations, iterations)

    def on_pattern(values: Float64) -> sp.csr_array:
        return sp.csr_array((values, start.indices, start.indptr), shape=start.shape)

    return FittedColumns(on_pattern(weights), on_pattern(expected + prior), tuple(objective))


@dataclass(frozen=True)
class _Chunk:
    """n positions, as a flat list of the m source tokens that may have become their target tokens.

    Attributes:
        entries: (m,) int64, the index of C[y_i, w] in the data of the pattern.
        positions: (m,) int64, sorted, the index i in `rest`.
        probabilities: (m,) float32, p_i(w).
        rest: (n,) float64, p_i(rest) u(y_i).
    """

    entries: Int64
    positions: Int64
    probabilities: Float32
    rest: Float64


def _chunks(start: sp.csr_array, observations: Observations) -> Iterator[_Chunk]:
    """Look up the entries of the pattern for each position; drop positions without any entry."""
    size = start.shape[1]
    keys = np.repeat(np.arange(start.shape[0], dtype=np.int64), np.diff(start.indptr)) * size + start.indices
    target_frequency = sums(start, axis=1) / start.data.sum(dtype=np.float64)
    for at in range(0, len(observations.targets), _POSITIONS):
        y = observations.targets[at : at + _POSITIONS]
        p = observations.probabilities[at : at + _POSITIONS]
        pair_keys = y[:, None] * size + observations.ids[at : at + _POSITIONS]
        entries = np.minimum(np.searchsorted(keys, pair_keys), len(keys) - 1)
        has_entry = (keys[entries] == pair_keys) & (p > 0)
        rest = np.maximum(0.0, 1.0 - p.sum(axis=1, dtype=np.float64)) * target_frequency[y]
        kept = has_entry.any(axis=1)
        positions, _ = np.nonzero(has_entry[kept])
        yield _Chunk(entries[has_entry], positions, p[has_entry], rest[kept])


def _batches(distributions: Distributions) -> Iterator[list[tuple[str, int, slice]]]:
    """Yield batches of texts, each with its start in `distributions.text` and the slice of its positions."""
    starts = iter(distributions.text_starts.tolist())
    batch: list[tuple[str, int, slice]] = []
    for (text, known), start in zip(distributions.texts(), starts, strict=False):
        batch.append((text, start, known))
        if len(batch) == _TEXTS:
            yield batch
            batch = []
    yield batch
