"""`embedding`: tokens are near when they are alike to the tokens that both vocabularies share.

A token's *relative representation* is its similarities to shared tokens, each measured in its own model's
embedding table, so that tables of different models can be compared (Moschella et al. 2023, arXiv 2209.15430;
used across vocabularies by DeePEn, arXiv 2404.12715). With plain cosines a few directions, in which all
tokens are alike, drown the rest; so every shared token is an anchor and similarity is measured where the
shared tokens have variance 1 in every direction. For the tables X_S, X_T of the n shared tokens, centred,

    Sigma_T^(-1/2) (X_T' X_S / n) Sigma_S^(-1/2) = U D V'          Sigma = X'X / n + (dimension / n) mean variance
    u(y) = D^7 U' Sigma_T^(-1/2) (e_y - mean)        v(w) = D^7 V' Sigma_S^(-1/2) (e_w - mean)
    similarity(y, w) = cosine of u(y) and v(w)

which is canonical correlation analysis (Hotelling 1936), and needs no vector as long as there are anchors. A
direction counts by its correlation D. Shared tokens that were held out are found first in 96.5 % with exponent
3 and in 95.8 % with 7, among the nearest eight in 99.1 and 98.8 % (SmolLM2 and Gemma-3, one standard error apart);
with 7 the approximate search, which sees fewer directions, finds what the exact one does in a fifth of its time.

Tokens of equal bytes are partners without any search. Every other gets its nearest tokens of the other
vocabulary, weighted by a softmax of the similarities.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.builders.base import Builder, Progress, matrix, occurrence
from vocabridge.alignment.builders.chain import open_columns, open_rows
from vocabridge.alignment.builders.identical_bytes import IdenticalBytes, exact_partners
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.embedding_table import EmbeddingTable
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.tokenizers.tokens import Int64
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

Float32: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Float64: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

_BATCH = 1 << 14
"""Rows of a table in memory at a time."""

_EXPONENT = 7.0
_TEMPERATURE = 0.05

_FEW = 1 << 12
"""Tokens below which no index is worth its training."""

_COARSE = 96
"""Numbers per token in the first, coarse search of the approximate index."""

_LISTS = 256
"""Lists of the approximate index; a quarter of them is scanned."""

_TRAINED = 1 << 16
"""Tokens at most that the approximate index is trained on."""

_CANDIDATES = 11.0
"""How many candidates of the coarse search are compared in full, per neighbour wanted."""


class Search(enum.Enum):
    """How neighbours are searched.

    Attributes:
        EXACT: Every pair is looked at.
        APPROXIMATE: A quarter of the pairs is looked at coarsely, and the best in full; about one neighbour in
            twenty is missed.
    """

    EXACT = "exact"
    APPROXIMATE = "approximate"


@dataclass(frozen=True)
class Embedding(Builder):
    """Find the nearest tokens by two models' embeddings.

    Attributes:
        embeddings: Of the source's model and of the target's.
        search: How neighbours are searched.
        neighbours: How many of them a token gets.
    """

    method: ClassVar[str] = "embedding"
    embeddings: tuple[EmbeddingTable, EmbeddingTable]
    search: Search = Search.APPROXIMATE
    neighbours: int = 8

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise VocabridgeError(f"A token cannot have {self.neighbours} neighbours: give 1 or more.")

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        nothing = sp.csr_array((target.size, source.size), dtype=np.float64)
        return self._fill(nothing, source, target, corpus, progress)

    def _fill(
        self,
        counts: sp.csr_array,
        source: Vocabulary,
        target: Vocabulary,
        corpus: Corpus | None,
        progress: Progress,
    ) -> sp.csr_array:
        for table, vocabulary in zip(self.embeddings, (source, target), strict=True):
            table.check(vocabulary)
        exact = IdenticalBytes()._count(source, target, None, lambda done, total: None)
        known = sp.csr_array(counts + exact)
        y, w = open_rows(known, target), open_columns(known, source)
        of_source, of_target = shared_space(*self.embeddings, *exact_partners(source, target)[::-1])
        total = len(y) + len(w)
        near_y, weights_y = self._near(of_target, y, of_source, source.usable, lambda done: progress(done, total))
        near_w, weights_w = self._near(
            of_source, w, of_target, target.usable, lambda done: progress(len(y) + done, total)
        )
        found = matrix(
            np.concatenate((np.repeat(y, near_y.shape[1]), near_w.ravel())),
            np.concatenate((near_y.ravel(), np.repeat(w, near_w.shape[1]))),
            np.concatenate(
                (
                    (weights_y * occurrence(target)[y, None]).ravel(),
                    (weights_w * occurrence(source)[w, None]).ravel(),
                )
            ),
            exact.shape,
        )
        return sp.csr_array(exact + found)

    def _near(
        self,
        queries: Relative,
        ids: Int64,
        base: Relative,
        base_ids: Int64,
        tell: Callable[[int], None],
    ) -> tuple[Int64, Float64]:
        """Return the nearest of `base_ids` for each of `ids`, (n, k), and their weights, rows summing to 1."""
        k = min(self.neighbours, len(base_ids))
        if len(ids) == 0:
            return np.empty((0, k), np.int64), np.empty((0, k))
        index = build_index(base, base_ids, self.search)
        near, similarity = nearest(index, queries, ids, k, tell)
        weights = np.exp((similarity - similarity[:, :1]) / _TEMPERATURE)
        return base_ids[near], weights / weights.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Relative:
    """One vocabulary's tokens in the space that it shares with the other.

    Attributes:
        table: The embeddings.
        mean: (dimension,) float32, of the shared tokens.
        projection: (dimension, common) float32, directions by falling correlation.
    """

    table: EmbeddingTable
    mean: Float32
    projection: Float32

    def __call__(self, ids: Int64) -> Float32:
        """Return unit vectors, (n, common) float32."""
        vectors = np.empty((len(ids), self.projection.shape[1]), np.float32)
        for at in range(0, len(ids), _BATCH):
            batch = slice(at, at + _BATCH)
            vectors[batch] = (self.table.rows(ids[batch]) - self.mean) @ self.projection
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return vectors


def shared_space(source: EmbeddingTable, target: EmbeddingTable, w: Int64, y: Int64) -> tuple[Relative, Relative]:
    """Find the space of both tables from tokens that they share.

    Args:
        source: The source's embeddings.
        target: The target's.
        w: (n,) ids in the source of shared tokens.
        y: (n,) the same tokens' ids in the target.

    Returns:
        The source's side and the target's.

    Raises:
        VocabridgeError: Fewer than two tokens are shared, or the numbers make no sense.
    """
    n = len(w)
    if n < 2:
        raise VocabridgeError(
            f"{source.name} and {target.name} share {n} tokens: embeddings are compared by those that they share."
        )
    a, b = source.dimension, target.dimension
    sum_s, sum_t, ss, tt, ts = np.zeros(a), np.zeros(b), np.zeros((a, a)), np.zeros((b, b)), np.zeros((b, a))
    for at in range(0, n, _BATCH):
        x_s, x_t = source.rows(w[at : at + _BATCH]), target.rows(y[at : at + _BATCH])
        sum_s += x_s.sum(axis=0, dtype=np.float64)
        sum_t += x_t.sum(axis=0, dtype=np.float64)
        ss += x_s.T @ x_s
        tt += x_t.T @ x_t
        ts += x_t.T @ x_s
    mean_s, mean_t = sum_s / n, sum_t / n
    root_s = _inverse_root(ss / n - np.outer(mean_s, mean_s), n, source)
    root_t = _inverse_root(tt / n - np.outer(mean_t, mean_t), n, target)
    u, correlations, v = np.linalg.svd(root_t @ (ts / n - np.outer(mean_t, mean_s)) @ root_s, full_matrices=False)
    weights = correlations**_EXPONENT
    return (
        Relative(source, mean_s.astype(np.float32), (root_s @ v.T * weights).astype(np.float32)),
        Relative(target, mean_t.astype(np.float32), (root_t @ u * weights).astype(np.float32)),
    )


def _inverse_root(covariance: Float64, n: int, table: EmbeddingTable) -> Float64:
    """Return the inverse square root of the covariance of n rows, shrunk as the module says."""
    ridge = float(np.trace(covariance)) / n
    if not 0 < ridge < np.inf:
        raise VocabridgeError(f"{table.name}: the shared tokens' rows are all the same or not finite numbers.")
    values, vectors = np.linalg.eigh(covariance)
    return (vectors / np.sqrt(np.maximum(values, 0) + ridge)) @ vectors.T


def build_index(tokens: Relative, ids: Int64, search: Search) -> Any:
    """Build a faiss index of tokens, by inner product of their unit vectors."""
    import faiss  # only here: with torch in the same process, a second OpenMP is best not loaded unless needed

    index: Any
    dimension = tokens.projection.shape[1]
    coarse = min(_COARSE, dimension // 2 * 2)
    if search is Search.EXACT or len(ids) < _FEW or coarse == 0:
        index = faiss.IndexFlatIP(dimension)
    else:
        # Lists around centres, and in them two principal components in four bits, scanned in registers (Andre et
        # al. 2015, "Cache locality is not enough"); the best are compared in half precision. Of what
        # was tried (HNSW, lists of plain or 8-bit vectors, a scan without lists) nothing was faster at recall 0.95.
        lists = min(_LISTS, len(ids) // 64)
        description = f"PCA{coarse},IVF{lists},PQ{coarse // 2}x4fsr,Refine(SQfp16)"
        index = faiss.index_factory(dimension, description, faiss.METRIC_INNER_PRODUCT)
        index.k_factor = _CANDIDATES
        faiss.extract_index_ivf(faiss.downcast_index(index.base_index)).nprobe = max(1, lists // 4)
        index.train(tokens(ids[:: -(-len(ids) // _TRAINED)]))
    for at in range(0, len(ids), _BATCH):
        index.add(tokens(ids[at : at + _BATCH]))
    return index


def nearest(
    index: Any, queries: Relative, ids: Int64, k: int, tell: Callable[[int], None] = lambda done: None
) -> tuple[Int64, Float32]:
    """Return positions in the index, (n, k) int64, of the vectors nearest to each token, and similarities."""
    near, similarity = np.empty((len(ids), k), np.int64), np.empty((len(ids), k), np.float32)
    for at in range(0, len(ids), _BATCH):
        batch = slice(at, at + _BATCH)
        similarity[batch], near[batch] = index.search(queries(ids[batch]), k)
        tell(min(len(ids), at + _BATCH))
    return near, similarity
