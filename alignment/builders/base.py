"""What every builder shares: its parameters are its fields, and the roles of the two vocabularies are pinned.

A builder counts; `Builder.build` then makes a response able to begin and end: the source's end token speaks
for the target's end token and for nothing else, likewise for every other role that both vocabularies have.
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
from vocabridge.alignment.corpus import Corpus, CorpusCard
from vocabridge.alignment.errors import Effect, VocabridgeError, refuse_idle
from vocabridge.alignment.tokenizers.roles import pin_roles
from vocabridge.alignment.tokenizers.tokens import Int64
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

Progress: TypeAlias = Callable[[int, int], None]
"""Called with what is done and what there is to do, in bytes of text or in tokens."""

DUPLICATE = 2.0**-20
"""What an id counts that never occurs because another id has its bytes, where that one counts 1."""


class Reads(enum.Enum):
    """What a builder does with a corpus.

    Attributes:
        NOTHING: It works on the vocabularies alone.
        IF_GIVEN: It counts on a corpus if there is one.
        ALWAYS: It cannot do without.
    """

    NOTHING = enum.auto()
    IF_GIVEN = enum.auto()
    ALWAYS = enum.auto()


@dataclass(frozen=True)
class Builder(abc.ABC):
    """A way to count which tokens speak for each other; its fields are its parameters."""

    method: ClassVar[str]
    reads: ClassVar[Reads] = Reads.NOTHING
    shares: ClassVar[bool] = False
    """Whether several processes can share its counting."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters as JSON values: an input that a file holds (embeddings, distributions) by its digest."""
        return {f.name: _as_json(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def build(
        self,
        source: Vocabulary,
        target: Vocabulary,
        corpus: Corpus | None = None,
        progress: Progress | None = None,
    ) -> Alignment:
        """Build the alignment of two vocabularies.

        Args:
            source: The value network's vocabulary S.
            target: The base model's vocabulary T.
            corpus: The text to count on, where the method counts on text.
            progress: Told how far it is.

        Raises:
            VocabridgeError: There is a corpus and the method reads none, or the reverse; or it cannot be
                read.
        """
        self.check_corpus(corpus)
        counts = self._count(source, target, corpus, progress or (lambda done, total: None))
        return self._alignment(counts, source, target, None if corpus is None else corpus.card)

    def check_corpus(self, corpus: Corpus | None) -> None:
        """Check that there is a corpus if the method needs one, and none if it reads none.

        Raises:
            VocabridgeError: It is not so.
        """
        if self.reads is Reads.ALWAYS and corpus is None:
            raise VocabridgeError(f"The method {self.method} counts on text: give it a corpus.")
        if self.reads is Reads.NOTHING and corpus is not None:
            raise VocabridgeError(f"The method {self.method} reads no text: leave the corpus out.")

    def check_jobs(self, jobs: int, corpus: object) -> None:
        """Check that several jobs have something to share.

        Raises:
            UsageError: They have not.
        """
        advice = f"the method {self.method} shares no counting of text among processes; leave it out"
        refuse_idle(Effect("jobs", jobs != 1, self.shares and corpus is not None, advice))

    def _alignment(
        self, counts: sp.csr_array, source: Vocabulary, target: Vocabulary, corpus: CorpusCard | None
    ) -> Alignment:
        """Return counts, (|T|, |S|), with the roles pinned and where they come from."""
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
        """Return counts, (|T|, |S|), of which a `Chain` takes the rows and columns that `counts` leaves open.

        A builder that would waste time on what is not open works on that alone.
        """
        return self._count(source, target, corpus, progress)


def _as_json(value: Any) -> Any:
    """Return a parameter as a JSON value."""
    if isinstance(value, tuple):
        return [_as_json(each) for each in value]
    return value.value if isinstance(value, enum.Enum) else getattr(value, "digest", value)


def matrix(targets: Int64, sources: Int64, counts: np.ndarray[Any, Any], shape: tuple[int, int]) -> sp.csr_array:
    """Return the (|T|, |S|) CSR matrix of these entries, repeated ones summed up, float64."""
    values = np.asarray(counts, np.float64)
    return sp.coo_array((values, (targets, sources)), shape=shape).tocsr()


def occurrence(vocabulary: Vocabulary) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return (size,) float64: 1 for ids that the tokenizer emits for their bytes, `DUPLICATE` for others."""
    counts = np.full(vocabulary.size, DUPLICATE)
    counts[list(vocabulary.canonical.values())] = 1.0
    return counts
