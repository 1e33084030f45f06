"""`embedding`: tokens of two models are near when they are alike to the tokens that both models share."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

import scipy.sparse as sp

from .builder import Builder, Progress
from .corpus import Corpus
from .embedding_table import EmbeddingTable
from .vocabulary import Vocabulary

__all__ = ["Embedding", "EmbeddingTable", "Search"]


class Search(enum.Enum):
    """How neighbours are searched.

    Attributes:
        EXACT: Every pair is looked at.
        APPROXIMATE: Most are passed over by an index; about one neighbour in twenty is missed.
    """

    EXACT = "exact"
    APPROXIMATE = "approximate"


@dataclass(frozen=True)
class Embedding(Builder):
    """Find nearest tokens by embeddings.

    Attributes:
        embeddings: Of the source's model and of the target's.
        search: How neighbours are searched.
        neighbours: How many a row or column gets.
    """

    method: ClassVar[str] = "embedding"
    embeddings: tuple[EmbeddingTable, EmbeddingTable]
    search: Search = Search.APPROXIMATE
    neighbours: int = 8

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        raise NotImplementedError
