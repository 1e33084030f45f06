"""The base class of all alignment methods.

A builder counts pairs of tokens; its dataclass fields are its parameters. `Builder.build` then pins the roles: the
source's eos token is aligned with the target's eos token and with nothing else, and likewise for every other role that
both vocabularies have, so that a response can begin and end.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.alignment import Alignment, VocabularyCard
from vocabridge.alignment.arrays import Int64
from vocabridge.alignment.corpus import Corpus, CorpusCard
from vocabridge.alignment.errors import Effect, VocabridgeError, refuse_idle
from vocabridge.alignment.tokenizers.roles import pin_roles
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the work done and the total, in bytes of text or in tokens."""

DUPLICATE = 2.0**-20
"""The count of an id that never occurs, because another id with the same bytes does; that other id counts 1."""


def no_progress(done: int, total: int) -> None:
    """Do nothing; the default progress callback."""


class Reads(enum.Enum):
    """Whether a builder reads a corpus.

    Attributes:
        NOTHING: The builder uses the vocabularies alone.
        IF_GIVEN: The builder counts on a corpus if one is given.
        ALWAYS: The builder needs a corpus.
    """

    NOTHING = enum.auto()
    IF_GIVEN = enum.auto()
    ALWAYS = enum.auto()


@dataclass(frozen=True)
class Builder(abc.ABC):
    """An alignment method. Its fields are its parameters.

    Attributes:
        method: The method's name.
        reads: Whether the method reads a corpus.
        shares: Whether several processes can share the counting.
    """

    method: ClassVar[str]
    reads: ClassVar[Reads] = Reads.NOTHING
    shares: ClassVar[bool] = False

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters as JSON values. An input that is read from a file (embeddings, distributions) is a digest."""
        return {f.name: _as_json(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def build(
        self,
        source: Vocabulary,
        target: Vocabulary,
        corpus: Corpus | None = None,
        progress: Progress = no_progress,
    ) -> Alignment:
        """Build the alignment of two vocabularies.

        Args:
            source: The value source's vocabulary S.
            target: The base model's vocabulary T.
            corpus: The text to count on, for a method that counts on text.
            progress: Called with the work done and the total.

        Raises:
            VocabridgeError: The method needs a corpus and there is none, or the reverse; or the corpus cannot be read.
        """
        self.check_corpus(corpus)
        counts = self._count(source, target, corpus, progress)
        return self._alignment(counts, source, target, None if corpus is None else corpus.card)

    def check_corpus(self, corpus: Corpus | None) -> None:
        """Check that there is a corpus if the method needs one, and none if the method reads none.

        Raises:
            VocabridgeError: A corpus is missing, or is given to a method that reads none.
        """
        if self.reads is Reads.ALWAYS and corpus is None:
            raise VocabridgeError(f"the method {self.method} counts on text; give it a corpus")
        if self.reads is Reads.NOTHING and corpus is not None:
            raise VocabridgeError(f"the method {self.method} reads no text; leave the corpus out")

    def check_jobs(self, jobs: int, corpus: object) -> None:
        """Check that there is one job, or text whose counting several jobs can share.

        Raises:
            UsageError: There are several jobs, but the method counts no text or cannot share its counting.
        """
        advice = f"the method {self.method} shares no counting of text among processes; leave it out"
        refuse_idle(Effect("jobs", jobs != 1, self.shares and corpus is not None, advice))

    def _alignment(
        self, counts: sp.csr_array, source: Vocabulary, target: Vocabulary, corpus: CorpusCard | None
    ) -> Alignment:
        """Pin the roles in counts, (|T|, |S|), and add the provenance."""
        return Alignment(
            counts=pin_roles(counts, source, target),
            source=VocabularyCard.of(source),
            target=VocabularyCard.of(target),
            method=self.method,
            parameters=self.parameters,
            corpus=corpus,
        )

    @abc.abstractmethod
    def _count(self, source: Vocabulary, target: Vocabulary, corpus: Corpus | None, progress: Progress) -> sp.csr_array:
        """Return the counts, (|T|, |S|)."""

    def _fill(
        self,
        counts: sp.csr_array,
        source: Vocabulary,
        target: Vocabulary,
        corpus: Corpus | None,
        progress: Progress,
    ) -> sp.csr_array:
        """Return counts, (|T|, |S|), from which a `Chain` takes the rows and columns that are empty in `counts`.

        A builder overrides this method if it can save time by computing those rows and columns alone.
        """
        return self._count(source, target, corpus, progress)


def _as_json(value: Any) -> Any:
    """Return a parameter as a JSON value."""
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    return value.value if isinstance(value, enum.Enum) else getattr(value, "digest", value)


def matrix(targets: Int64, sources: Int64, counts: np.ndarray[Any, Any], shape: tuple[int, int]) -> sp.csr_array:
    """Return the (|T|, |S|) float64 CSR matrix of these entries. Entries of the same pair are summed."""
    values = np.asarray(counts, np.float64)
    return sp.coo_array((values, (targets, sources)), shape=shape).tocsr()


def occurrence(vocabulary: Vocabulary) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return (size,) float64: 1 for an id that the tokenizer emits for its bytes, `DUPLICATE` for any other."""
    counts = np.full(vocabulary.size, DUPLICATE)
    counts[list(vocabulary.canonical.values())] = 1.0
    return counts
