"""`embedding`: tokens are aligned if they are similar to the same tokens that both vocabularies share.

A token's *relative representation* is the vector of its similarities to shared tokens, each measured in its own model's
embedding table, so that tables of different models can be compared (Moschella et al. 2023, arXiv 2209.15430; used
across vocabularies by DeePEn, arXiv 2404.12715). With plain cosines, a few directions in which all tokens are similar
dominate. Therefore every shared token is an anchor, and similarity is measured in a space in which the shared tokens
have variance 1 in every direction. For the centered tables X_S, X_T of the n shared tokens,

    Sigma_T^(-1/2) (X_T' X_S / n) Sigma_S^(-1/2) = U D V'          Sigma = X'X / n + (dimension / n) mean variance
    u(y) = D^7 U' Sigma_T^(-1/2) (e_y - mean)        v(w) = D^7 V' Sigma_S^(-1/2) (e_w - mean)
    similarity(y, w) = cosine of u(y) and v(w)

This is canonical correlation analysis (Hotelling 1936); no vector of the length of the number of anchors is needed. The
exponent weights a direction by its correlation D. Of held-out shared tokens, 96.5% are found first with exponent 3 and
95.8% with 7; 99.1% and 98.8% are among the nearest eight (SmolLM2 and Gemma-3; the differences are one standard
error). With 7, the approximate search, which uses fewer directions, finds the same neighbors in a fifth of the time of
the exact search.

Tokens of equal bytes are aligned without a search. Every other token gets its nearest tokens of the other vocabulary,
weighted by a softmax of the similarities.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.arrays import Float32, Float64, Int64
from vocabridge.alignment.builders.base import Builder, Progress, matrix, no_progress, occurrence
from vocabridge.alignment.builders.chain import open_columns, open_rows
from vocabridge.alignment.builders.identical_bytes import IdenticalBytes, exact_partners
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.embedding_table import EmbeddingTable
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_BATCH = 1 << 14
"""Rows of a table in memory at a time."""

_EXPONENT = 7.0
"""The exponent of D."""

_TEMPERATURE = 0.05
"""The temperature of the softmax over similarities."""

_LEAST_TOKENS = 1 << 12
"""The number of tokens below which the exact search is faster than training an approximate index."""

_COARSE = 96
"""The dimensions of the first, coarse search of the approximate index."""

_LISTS = 256
"""The lists of the approximate index, of which a quarter is scanned."""

_TRAINED = 1 << 16
"""The maximum number of tokens that the approximate index is trained on."""

_CANDIDATES = 11.0
"""The candidates of the coarse search that are compared in full precision, per requested neighbor."""


class Search(enum.Enum):
    """How neighbors are searched.

    Attributes:
        EXACT: Every pair is compared.
        APPROXIMATE: A quarter of the pairs is compared coarsely, and the best of these in full precision. About one
            neighbor in twenty is missed.
    """

    EXACT = "exact"
    APPROXIMATE = "approximate"


@dataclass(frozen=True)
class Embedding(Builder):
    """Pair tokens with their nearest neighbors by two models' embeddings.

    Attributes:
        embeddings: The embeddings of the source's model and of the target's.
        search: How neighbors are searched.
        neighbors: The number of neighbors of each token.

    Raises:
        VocabridgeError: The number of neighbors is less than 1.
    """

    method: ClassVar[str] = "embedding"
    embeddings: tuple[EmbeddingTable, EmbeddingTable]
    search: Search = Search.APPROXIMATE
    neighbors: int = 8

    def __post_init__(self) -> None:
        if self.neighbors < 1:
            raise VocabridgeError(f"a token cannot have {self.neighbors} neighbors; give 1 or more")

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        no_counts = sp.csr_array((target.size, source.size), dtype=np.float64)
        return self._fill(no_counts, source, target, corpus, progress)

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
        equal = IdenticalBytes()._count(source, target, None, no_progress)
        covered = sp.csr_array(counts + equal)
        y, w = open_rows(covered, target), open_columns(covered, source)
        source_space, target_space = shared_space(*self.embeddings, *exact_partners(source, target)[::-1])
        total = len(y) + len(w)
        near_y, weights_y = self._neighbors(
            target_space, y, source_space, source.usable, lambda done: progress(done, total)
        )
        near_w, weights_w = self._neighbors(
            source_space, w, target_space, target.usable, lambda done: progress(len(y) + done, total)
        )
        similar = matrix(
            np.concatenate((np.repeat(y, near_y.shape[1]), near_w.ravel())),
            np.concatenate((near_y.ravel(), np.repeat(w, near_w.shape[1]))),
            np.concatenate(
                (
                    (weights_y * occurrence(target)[y, None]).ravel(),
                    (weights_w * occurrence(source)[w, None]).ravel(),
                )
            ),
            equal.shape,
        )
        return sp.csr_array(equal + similar)

    def _neighbors(
        self,
        queries: SharedSpace,
        query_ids: Int64,
        candidates: SharedSpace,
        candidate_ids: Int64,
        report: Callable[[int], None],
    ) -> tuple[Int64, Float64]:
        """Return the k nearest candidates of each query, (n, k), and their weights; each row of weights sums to 1."""
        k = min(self.neighbors, len(candidate_ids))
        if len(query_ids) == 0:
            return np.empty((0, k), np.int64), np.empty((0, k))
        index = build_index(candidates, candidate_ids, self.search)
        near, similarity = nearest(index, queries, query_ids, k, report)
        weights = np.exp((similarity - similarity[:, :1]) / _TEMPERATURE)
        return candidate_ids[near], weights / weights.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class SharedSpace:
    """The map of one vocabulary's embeddings into the space that both vocabularies share.

    Attributes:
        table: The embeddings.
        mean: (dimension,) float32, the mean embedding of the shared tokens.
        projection: (dimension, common) float32, whose columns are directions by falling correlation.
    """

    table: EmbeddingTable
    mean: Float32
    projection: Float32

    def __call__(self, ids: Int64) -> Float32:
        """Return the unit vectors of n ids in the shared space, (n, common) float32."""
        vectors = np.empty((len(ids), self.projection.shape[1]), np.float32)
        for at in range(0, len(ids), _BATCH):
            batch = slice(at, at + _BATCH)
            vectors[batch] = (self.table.rows(ids[batch]) - self.mean) @ self.projection
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return vectors


def shared_space(source: EmbeddingTable, target: EmbeddingTable, w: Int64, y: Int64) -> tuple[SharedSpace, SharedSpace]:
    """Compute the shared space of two tables from n tokens that both have.

    Args:
        source: The source's embeddings.
        target: The target's embeddings.
        w: (n,) the source ids of the shared tokens.
        y: (n,) the target ids of the shared tokens.

    Returns:
        The map of the source's embeddings, and that of the target's.

    Raises:
        VocabridgeError: Fewer than two tokens are shared, or the embeddings are constant or not finite.
    """
    n = len(w)
    if n < 2:
        raise VocabridgeError(
            f"{source.name} and {target.name} share {n} tokens, but the method embedding needs 2 or more; take another "
            "method"
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
        SharedSpace(source, mean_s.astype(np.float32), (root_s @ v.T * weights).astype(np.float32)),
        SharedSpace(target, mean_t.astype(np.float32), (root_t @ u * weights).astype(np.float32)),
    )


def _inverse_root(covariance: Float64, n: int, table: EmbeddingTable) -> Float64:
    """Return Sigma^(-1/2) of the covariance of n rows, with the ridge of the module's equation."""
    ridge = float(np.trace(covariance)) / n
    if not 0 < ridge < np.inf:
        raise VocabridgeError(
            f"{table.name}: the shared tokens' rows are all the same or not finite numbers; get the embeddings again"
        )
    values, vectors = np.linalg.eigh(covariance)
    return (vectors / np.sqrt(np.maximum(values, 0) + ridge)) @ vectors.T


def build_index(space: SharedSpace, ids: Int64, search: Search) -> Any:
    """Build a faiss index of tokens, by the inner product of their unit vectors in the shared space."""
    import faiss  # imported late, because it loads a second OpenMP library beside that of torch

    index: Any
    dimension = space.projection.shape[1]
    coarse = min(_COARSE, dimension // 2 * 2)
    if search is Search.EXACT or len(ids) < _LEAST_TOKENS or coarse == 0:
        index = faiss.IndexFlatIP(dimension)
    else:
        # Inverted lists hold product-quantized principal components, two in four bits, which are scanned in registers
        # (Andre et al. 2015, "Cache locality is not enough"). The best candidates are compared in half precision. HNSW,
        # lists of plain or 8-bit vectors, and a scan without lists were not faster at a recall of 0.95.
        lists = min(_LISTS, len(ids) // 64)
        description = f"PCA{coarse},IVF{lists},PQ{coarse // 2}x4fsr,Refine(SQfp16)"
        index = faiss.index_factory(dimension, description, faiss.METRIC_INNER_PRODUCT)
        index.k_factor = _CANDIDATES
        faiss.extract_index_ivf(faiss.downcast_index(index.base_index)).nprobe = max(1, lists // 4)
        index.train(space(ids[:: -(-len(ids) // _TRAINED)]))
    for at in range(0, len(ids), _BATCH):
        index.add(space(ids[at : at + _BATCH]))
    return index


def nearest(
    index: Any, queries: SharedSpace, ids: Int64, k: int, report: Callable[[int], None] = lambda done: None
) -> tuple[Int64, Float32]:
    """Search the k nearest vectors of an index for each token.

    Args:
        index: The index of `build_index`.
        queries: The map of the tokens into the shared space.
        ids: (n,) the tokens.
        k: The number of neighbors.
        report: Called with the number of tokens done.

    Returns:
        (n, k) int64, positions in the index, the nearest first; (n, k) float32, cosine similarities.
    """
    near, similarity = np.empty((len(ids), k), np.int64), np.empty((len(ids), k), np.float32)
    for at in range(0, len(ids), _BATCH):
        batch = slice(at, at + _BATCH)
        similarity[batch], near[batch] = index.search(queries(ids[batch]), k)
        report(min(len(ids), at + _BATCH))
    return near, similarity
