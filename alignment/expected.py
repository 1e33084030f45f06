"""`expected`: counts in which the source side is a language model's own next-token distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import scipy.sparse as sp

from .builder import Builder, Progress, Reads
from .corpus import Corpus
from .distributions import Distributions
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class Expected(Builder):
    """Fit counts so that the carried distribution explains the target tokens.

    Attributes:
        distributions: What the source model says along texts.
    """

    method: ClassVar[str] = "expected"
    reads: ClassVar[Reads] = Reads.IF_GIVEN
    distributions: Distributions

    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        raise NotImplementedError
