"""Count a corpus in shards, one file each, and merge the files into one alignment.

`vocabridge align --shard i/n` counts every n-th piece of the corpus and writes partial counts. They are 64-bit
integers, so the sum of the n files is exactly what one process would have counted. `merge_shards` checks that it has
every shard of one build exactly once, adds the counts, and finishes as an unsharded build does. The alignment is the
same to the last bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vocabridge.alignment.alignment import FORMAT, Alignment, VocabularyCard
from vocabridge.alignment.builders.base import Builder, Progress, no_progress
from vocabridge.alignment.corpus import Corpus, CorpusCard, Shard
from vocabridge.alignment.counting.counting_builder import CountingBuilder
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.counting.workers import Work, count_corpus
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.methods import METHODS
from vocabridge.alignment.sealed import Seal
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

_SEAL = Seal("partial counts", "vocabridge-shard", FORMAT, "count it again with `vocabridge align --shard`")


@dataclass(frozen=True, eq=False)
class PartialCounts:
    """The counts of one shard of a corpus, with everything that determines the alignment.

    Attributes:
        counts: The counts of this shard.
        shard: The shard.
        method: The builder's name.
        parameters: The builder's parameters, as JSON values.
        source: The value source's vocabulary.
        target: The base model's vocabulary.
        corpus: The whole corpus, not the shard.
    """

    counts: PairCounts = field(repr=False)
    shard: Shard
    method: str
    parameters: Mapping[str, Any]
    source: VocabularyCard
    target: VocabularyCard
    corpus: CorpusCard

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically.

        Raises:
            VocabridgeError: The file cannot be written.
        """
        metadata: dict[str, Any] = {"method": self.method, "parameters": dict(self.parameters)}
        for name in ("shard", "source", "target", "corpus"):
            metadata[name] = dataclasses.asdict(getattr(self, name))
        _SEAL.write(path, {"keys": self.counts.keys, "counts": self.counts.counts}, metadata)

    @classmethod
    def load(cls, path: str | Path) -> PartialCounts:
        """Read the counts of a shard.

        Raises:
            VocabridgeError: The file is missing, holds no partial counts, or was altered or truncated.
        """
        tensors, metadata = _SEAL.read(path)
        return cls(
            counts=PairCounts(tensors["keys"], tensors["counts"]),
            shard=Shard(**metadata["shard"]),
            method=metadata["method"],
            parameters=metadata["parameters"],
            source=VocabularyCard.read(metadata["source"]),
            target=VocabularyCard.read(metadata["target"]),
            corpus=CorpusCard(**metadata["corpus"]),
        )

    @property
    def build(self) -> dict[str, object]:
        """The facts that all shards of one build have in common, keyed by their names in messages."""
        return {
            "source tokenizer": self.source.fingerprint,
            "target tokenizer": self.target.fingerprint,
            "number of ids": (self.source.size, self.target.size),
            "method": self.method,
            "parameters": dict(self.parameters),
            "corpus": self.corpus,
            "number of shards": self.shard.of,
        }


def count_shard(
    builder: Builder,
    source: Vocabulary,
    target: Vocabulary,
    corpus: Corpus,
    shard: Shard,
    progress: Progress = no_progress,
) -> PartialCounts:
    """Count one shard of a corpus.

    Raises:
        VocabridgeError: The method is no `CountingBuilder`, or the corpus cannot be read.
    """
    if not isinstance(builder, CountingBuilder):
        countable = ", ".join(name for name, method in METHODS.items() if issubclass(method, CountingBuilder))
        raise VocabridgeError(f"the method {builder.method} cannot be counted in shards; these can: {countable}")
    work = Work(builder, (source, target))
    (counts,) = count_corpus(work, corpus, progress, shard)
    cards = VocabularyCard.of(source), VocabularyCard.of(target)
    return PartialCounts(counts, shard, builder.method, builder.parameters, *cards, corpus.card)


def merge_shards(
    paths: Iterable[str | Path], *, source: Vocabulary | None = None, target: Vocabulary | None = None
) -> Alignment:
    """Make the alignment from all shards of a build.

    Args:
        paths: Files that `PartialCounts.save` wrote, in any order.
        source: The value source's vocabulary; by default loaded by the name in the shards.
        target: The base model's vocabulary; by default loaded by the name in the shards.

    Returns:
        The alignment that an unsharded build makes, with the names that the first shard gives the vocabularies.

    Raises:
        VocabridgeError: A shard is missing, given twice, or of another build; a vocabulary cannot be loaded by its
            name, or is another one.
    """
    first, counts = _add_shards([Path(path) for path in paths])
    builder = METHODS[first.method](**first.parameters)
    assert isinstance(builder, CountingBuilder)
    source = _vocabulary("source", first.source, source)
    target = _vocabulary("target", first.target, target)
    # The keys of the counts depend on the sizes that the vocabularies had when they were counted.
    sized_source, sized_target = source.resized(first.source.size), target.resized(first.target.size)
    merged = builder.finish(counts, sized_source, sized_target, first.corpus)
    merged = merged.fitted(source, target)
    names = {"source": first.source.name, "target": first.target.name}
    return dataclasses.replace(
        merged, **{side: dataclasses.replace(getattr(merged, side), name=name) for side, name in names.items()}
    )


def _add_shards(paths: list[Path]) -> tuple[PartialCounts, PairCounts]:
    """Check that the files are all shards of one build, each once, and add their counts, one file at a time.

    Returns:
        The first shard; the sum of all counts.
    """
    if not paths:
        raise VocabridgeError("there is no shard to merge; name the files that `vocabridge align --shard` wrote")
    first, total = PartialCounts.load(paths[0]), PairCounts()
    path_of: dict[int, Path] = {}
    for path in paths:
        partial = PartialCounts.load(path)
        for what, value in partial.build.items():
            if value != first.build[what]:
                raise VocabridgeError(
                    f"{path}: of another build than {paths[0]} (the {what} differs); merge the shards of one build"
                )
        if partial.shard.index in path_of:
            raise VocabridgeError(
                f"{path}: shard {partial.shard} is there twice, also as {path_of[partial.shard.index]}; name it once"
            )
        path_of[partial.shard.index] = path
        total += partial.counts
    missing = [str(Shard(i, first.shard.of)) for i in range(1, first.shard.of + 1) if i not in path_of]
    if missing:
        raise VocabridgeError(f"of {first.shard.of} shards these are missing: {', '.join(missing)}; count them too")
    return first, total


def _vocabulary(side: str, card: VocabularyCard, given: Vocabulary | None) -> Vocabulary:
    """Return the given vocabulary, or load the one that the card names, and compare its fingerprint with the card."""
    if given is None:
        try:
            given = Vocabulary.load(card.name, size=card.size)
        except VocabridgeError as error:
            raise VocabridgeError(
                f"the shards' {side} tokenizer, {card.name}, cannot be loaded ({error}); name it with --{side}"
            ) from error
    if given.fingerprint != card.fingerprint:
        raise VocabridgeError(
            f"the shards were counted with the {side} tokenizer {card.name} ({card.fingerprint[:12]}), "
            f"not {given.name} ({given.fingerprint[:12]}); name the right one with --{side}"
        )
    return given
