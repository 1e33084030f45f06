"""An alignment: a sparse matrix of counts of pairs of tokens, with its provenance.

In the matrix N, |T| x |S|, N[y, w] counts how often target token y and source token w correspond; by the method
`cooccurrence`, how often they start at the same byte of the same text. Scaling rows to sum to 1 gives R, the
weights of the source tokens aligned with a target token. Scaling columns gives C, the distribution over target tokens
for a source token. The file is a safetensors file with the three arrays of a CSR matrix; its header holds the
provenance as JSON and a hash over everything.
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
"""The version of the file format and of the builders' counts. A change of either invalidates older files."""

_VERSION = importlib.metadata.version("vocabridge")

_SEAL = Seal(what="an alignment", key="vocabridge", format=FORMAT, remedy="build it again with `vocabridge align`")


@dataclass(frozen=True)
class VocabularyCard:
    """A vocabulary as an alignment records it.

    Attributes:
        name: The vocabulary's name, for messages.
        size: The number of ids.
        usable: The number of ids that stand for bytes.
        fingerprint: The vocabulary's fingerprint.
        control_roles: The roles of control tokens, role -> id. The roles are "bos", "eos", "pad", "unk", "turn begin",
            "turn content" and "turn end".
        changes: What the tokenizer changes in a text, in words.
    """

    name: str
    size: int
    usable: int
    fingerprint: str
    control_roles: Mapping[str, int]
    changes: tuple[str, ...] = ()

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> VocabularyCard:
        """Make the card of a vocabulary."""
        v = vocabulary
        return cls(v.name, v.size, len(v.usable), v.fingerprint, dict(v.control_roles), v.changes)

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> VocabularyCard:
        """Make a card of its JSON form.

        Raises:
            TypeError: A field is missing, unknown or of another type.
            KeyError: The field `changes` is missing.
        """
        return cls(**{**fields, "changes": tuple(fields["changes"])})


@dataclass(frozen=True)
class Summary:
    """The coverage of an alignment in numbers.

    Attributes:
        target_usable: The number of target tokens that stand for bytes.
        target_covered: The number of target tokens of any kind whose row has an entry.
        source_usable: The number of source tokens that stand for bytes.
        source_covered: The number of source tokens of any kind whose column has an entry.
        pairs: The number of non-zero entries.
        single: The number of rows with exactly one entry.
        largest_row: The number of entries of the fullest row.
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
        """Covered target tokens per usable target token, at most 1."""
        return min(1.0, self.target_covered / max(1, self.target_usable))

    @property
    def source_coverage(self) -> float:
        """Covered source tokens per usable source token, at most 1."""
        return min(1.0, self.source_covered / max(1, self.source_usable))

    @property
    def mean_row(self) -> float:
        """The mean number of entries of the rows that are not empty."""
        return self.pairs / max(1, self.target_covered)


@dataclass(frozen=True, eq=False)
class Alignment:
    """Counts of pairs of tokens, with their provenance.

    Attributes:
        counts: (|target|, |source|) float32 CSR, with sorted indices, all entries positive.
        source: The value source's vocabulary.
        target: The base model's vocabulary.
        method: The builder's name.
        parameters: The builder's parameters, as JSON values.
        corpus: The corpus that was counted; None if no text was.
        version: The version of the library that built the alignment.
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
        """R: (|target|, |source|) float32 CSR. Each row sums to 1 (within 1e-7) or is empty."""
        return _scaled(self.counts, sums(self.counts, axis=1), rows=True)

    @functools.cached_property
    def column_weights(self) -> sp.csr_array:
        """C: (|target|, |source|) float32 CSR. Each column sums to 1 (within 1e-7) or is empty."""
        return _scaled(self.counts, sums(self.counts, axis=0), rows=False)

    def summary(self) -> Summary:
        """Count the tokens and pairs that the alignment covers."""
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
        """Return this alignment with the names, sizes and control tokens of these vocabularies.

        The counts depend on text tokens alone. The vocabularies may therefore have more or fewer unused rows than when
        the alignment was built, and other control tokens, whose pairs by role are made again.

        Raises:
            VocabridgeError: A tokenizer has another fingerprint than the one of the alignment. The message names the
                side.
        """
        for side, card, given in (("source", self.source, source), ("target", self.target, target)):
            if given is not None and given.fingerprint != card.fingerprint:
                raise VocabridgeError(
                    f"the alignment was made for the {side} tokenizer {card.name} ({card.size} ids, "
                    f"{card.fingerprint[:12]}), not {given.name} ({given.size} ids, {given.fingerprint[:12]}); build "
                    "it again for this pair"
                )
        before = self.source, self.target
        after = [
            card if given is None else VocabularyCard.of(given)
            for card, given in zip(before, (source, target), strict=True)
        ]
        counts = self.counts
        if [(card.size, card.control_roles) for card in before] != [(card.size, card.control_roles) for card in after]:
            counts = pin_again(counts, before, *after)
        return dataclasses.replace(self, counts=counts, source=after[0], target=after[1])

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically.

        Raises:
            VocabridgeError: The file cannot be written (no such folder, no space, no permission).
        """
        tensors = {
            "indptr": self.counts.indptr.astype(np.int64),
            "indices": self.counts.indices.astype(np.int32),
            "data": self.counts.data.astype(np.float32),
        }
        metadata = {
            "version": self.version,
            "method": self.method,
            "parameters": dict(self.parameters),
            "source": dataclasses.asdict(self.source),
            "target": dataclasses.asdict(self.target),
            "corpus": None if self.corpus is None else dataclasses.asdict(self.corpus),
        }
        _SEAL.write(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | Path, *, source: Vocabulary | None = None, target: Vocabulary | None = None) -> Alignment:
        """Read an alignment, verify its hash, and fit it to these vocabularies (see `fitted`).

        Raises:
            VocabridgeError: The file is missing, no alignment, altered, truncated, or made for other tokenizers.
        """
        tensors, metadata = _SEAL.read(path)
        try:
            source_card, target_card = (VocabularyCard.read(metadata[side]) for side in ("source", "target"))
            shape = (target_card.size, source_card.size)
            loaded = cls(
                counts=sp.csr_array((tensors["data"], tensors["indices"], tensors["indptr"]), shape=shape),
                source=source_card,
                target=target_card,
                method=metadata["method"],
                parameters=metadata["parameters"],
                corpus=None if metadata["corpus"] is None else CorpusCard(**metadata["corpus"]),
                version=metadata["version"],
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise VocabridgeError(f"{path}: not readable as {_SEAL.what} ({error}); {_SEAL.remedy}") from error
        return loaded.fitted(source, target)


def _scaled(counts: sp.csr_array, totals: np.ndarray[Any, Any], *, rows: bool) -> sp.csr_array:
    """Divide every entry by the sum of its row or column."""
    per_entry = np.repeat(totals, np.diff(counts.indptr)) if rows else totals[counts.indices]
    data = (counts.data / per_entry).astype(np.float32)
    return sp.csr_array((data, counts.indices, counts.indptr), shape=counts.shape)
