"""An alignment: how often target token y and source token w start at the same byte, with where it comes from.

One sparse matrix of counts N, |T| x |S|, holds everything: rows that sum to 1 give W and R (which source
tokens speak for a target token), columns that sum to 1 give C (what a source token becomes). On disk it is
a safetensors file, the three arrays of a CSR matrix, with all else as JSON in its header and a hash over
both.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from vocabridge.alignment.corpus import CorpusCard
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.sealed import Seal
from vocabridge.alignment.sparse import sums
from vocabridge.alignment.tokenizers.roles import pin_again
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

FORMAT = 4
"""Of the file and of what the builders count: a change of either makes older files stale."""

_VERSION = importlib.metadata.version("vocabridge")

_SEAL = Seal(what="an alignment", key="vocabridge", format=FORMAT, again="build it again with `vocabridge align`")


@dataclass(frozen=True)
class VocabularyCard:
    """What an alignment remembers of a vocabulary.

    Attributes:
        name: For people.
        size: The number of ids.
        usable: How many of them stand for bytes.
        fingerprint: The vocabulary's fingerprint.
        control_roles: "bos", "eos", "pad", "unk", "turn begin", "turn content", "turn end" -> id, those that
            control tokens have.
        changes: What the tokenizer changes in a text, in plain words.
    """

    name: str
    size: int
    usable: int
    fingerprint: str
    control_roles: Mapping[str, int]
    changes: tuple[str, ...] = ()

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> VocabularyCard:
        """Take the card of a vocabulary."""
        v = vocabulary
        return cls(v.name, v.size, len(v.usable), v.fingerprint, dict(v.control_roles), v.changes)

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> VocabularyCard:
        """Take a card from what JSON made of it; raises TypeError or KeyError for anything else."""
        return cls(**{**facts, "changes": tuple(facts["changes"])})


@dataclass(frozen=True)
class Summary:
    """What an alignment covers, for people.

    Attributes:
        target_usable: Target tokens that stand for bytes.
        target_covered: Those of any kind that have a row.
        source_usable: Source tokens that stand for bytes.
        source_covered: Those of any kind that have a column.
        pairs: Non-zero entries.
        single: Rows with one entry.
        largest_row: Entries of the fullest row.
    """

    target_usable: int
    target_covered: int
    source_usable: int
    source_covered: int
    pairs: int
    single: int
    largest_row: int

    @property
    def target_coverage(self) -> float:
        """Rows per usable target token, at most 1."""
        return min(1.0, self.target_covered / max(1, self.target_usable))

    @property
    def source_coverage(self) -> float:
        """Columns per usable source token, at most 1."""
        return min(1.0, self.source_covered / max(1, self.source_usable))

    @property
    def mean_row(self) -> float:
        """Entries per row that has any."""
        return self.pairs / max(1, self.target_covered)


@dataclass(frozen=True, eq=False)
class Alignment:
    """Counts of pairs of tokens, with their provenance.

    Attributes:
        counts: (|target|, |source|) float32 CSR, sorted indices, no explicit zeros, all positive.
        source: The value network's vocabulary.
        target: The base model's vocabulary.
        method: The builder's name.
        parameters: The builder's parameters, as JSON values.
        corpus: What was counted; None when no text was.
        version: The version of the library that built it.
    """

    counts: sp.csr_array = field(repr=False)
    source: VocabularyCard
    target: VocabularyCard
    method: str
    parameters: Mapping[str, Any]
    corpus: CorpusCard | None = None
    version: str = _VERSION

    @functools.cached_property
    def row_weights(self) -> sp.csr_array:
        """W and R: (|target|, |source|) float32 CSR, each row sums to 1 (within 1e-7) or is empty."""
        return _scaled(self.counts, sums(self.counts, axis=1), rows=True)

    @functools.cached_property
    def column_weights(self) -> sp.csr_array:
        """C: (|target|, |source|) float32 CSR, each column sums to 1 (within 1e-7) or is empty."""
        return _scaled(self.counts, sums(self.counts, axis=0), rows=False)

    def summary(self) -> Summary:
        """Count what is covered."""
        per_row = np.diff(self.counts.indptr)
        return Summary(
            target_usable=self.target.usable,
            target_covered=int(np.count_nonzero(per_row)),
            source_usable=self.source.usable,
            source_covered=len(np.unique(self.counts.indices)),
            pairs=int(self.counts.nnz),
            single=int(np.count_nonzero(per_row == 1)),
            largest_row=int(per_row.max(initial=0)),
        )

    def fitted(self, source: Vocabulary | None = None, target: Vocabulary | None = None) -> Alignment:
        """Return it for these vocabularies: their names, their width, and their control tokens pinned by role.

        What it counts depends on text tokens alone, so rows that stand for no text may be more or fewer, and roles
        may have gone to other tokens, since it was made.

        Raises:
            VocabridgeError: A tokenizer makes other tokens; the message says on which side.
        """
        for side, card, given in (("source", self.source, source), ("target", self.target, target)):
            if given is not None and given.fingerprint != card.fingerprint:
                raise VocabridgeError(
                    f"The alignment was made for the {side} tokenizer {card.name} ({card.size} ids, "
                    f"{card.fingerprint[:12]}), not {given.name} ({given.size} ids, {given.fingerprint[:12]}): build "
                    "it again for this pair."
                )
        sides = [
            card if given is None else VocabularyCard.of(given)
            for card, given in ((self.source, source), (self.target, target))
        ]
        pinned = [(one.size, one.control_roles) for one in sides]
        counts = self.counts
        if pinned != [(one.size, one.control_roles) for one in (self.source, self.target)]:
            counts = pin_again(counts, (self.source, self.target), *sides)
        return dataclasses.replace(self, counts=counts, source=sides[0], target=sides[1])

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; the file is either complete or not there.

        Raises:
            VocabridgeError: It cannot be written (no such folder, no space, no permission).
        """
        tensors = {
            "indptr": self.counts.indptr.astype(np.int64),
            "indices": self.counts.indices.astype(np.int32),
            "data": self.counts.data.astype(np.float32),
        }
        facts = {
            "version": self.version,
            "method": self.method,
            "parameters": dict(self.parameters),
            "source": dataclasses.asdict(self.source),
            "target": dataclasses.asdict(self.target),
            "corpus": None if self.corpus is None else dataclasses.asdict(self.corpus),
        }
        _SEAL.write(path, tensors, facts)

    @classmethod
    def load(cls, path: str | Path, *, source: Vocabulary | None = None, target: Vocabulary | None = None) -> Alignment:
        """Read an alignment, check that it is whole, and fit it to these vocabularies; see `fitted`.

        Raises:
            VocabridgeError: No such file, not an alignment, altered or cut off, or made for other tokenizers.
        """
        tensors, facts = _SEAL.read(path)
        try:
            cards = {side: VocabularyCard.read(facts[side]) for side in ("source", "target")}
            corpus = None if facts["corpus"] is None else CorpusCard(**facts["corpus"])
            shape = (cards["target"].size, cards["source"].size)
            counts = sp.csr_array((tensors["data"], tensors["indices"], tensors["indptr"]), shape=shape)
            made = facts["method"], facts["parameters"]
            loaded = cls(counts, cards["source"], cards["target"], *made, corpus, facts["version"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise VocabridgeError(f"{path}: not readable as {_SEAL.what} ({error}); {_SEAL.again}.") from error
        return loaded.fitted(source, target)


def _scaled(counts: sp.csr_array, totals: np.ndarray[Any, Any], *, rows: bool) -> sp.csr_array:
    """Divide every entry by the sum of its row or column."""
    per_entry = np.repeat(totals, np.diff(counts.indptr)) if rows else totals[counts.indices]
    data = (counts.data / per_entry).astype(np.float32)
    return sp.csr_array((data, counts.indices, counts.indptr), shape=counts.shape)
