"""Counts of one shard of a corpus, as a file, and what makes an alignment of all of them.

`vocabridge align --shard i/n` counts every n-th piece of the corpus and writes partial counts: whole numbers
of 64 bits, so that adding up the n files gives exactly what one process would have counted. `merge_shards` checks
that every shard of one and the same build is there once, adds up, and finishes as the build itself would: its
alignment is the same to the last bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vocabridge.alignment.alignment import FORMAT, Alignment, VocabularyCard
from vocabridge.alignment.builders.base import Builder, Progress
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
    """What one shard of a corpus counted, and all that decides the alignment.

    Attributes:
        counts: Of this shard, keys and counts int64.
        shard: Which one.
        method: The builder's name.
        parameters: The builder's parameters, as JSON values.
        source: The value network's vocabulary.
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
        """Write a safetensors file; the file is either complete or not there.

        Raises:
            VocabridgeError: It cannot be written.
        """
        facts: dict[str, Any] = {"method": self.method, "parameters": dict(self.parameters)}
        for name in ("shard", "source", "target", "corpus"):
            facts[name] = dataclasses.asdict(getattr(self, name))
        _SEAL.write(path, {"keys": self.counts.keys, "counts": self.counts.counts}, facts)

    @classmethod
    def load(cls, path: str | Path) -> PartialCounts:
        """Read the counts of a shard.

        Raises:
            VocabridgeError: No such file, not partial counts, altered or cut off.
        """
        tensors, facts = _SEAL.read(path)
        return cls(
            counts=PairCounts(tensors["keys"], tensors["counts"]),
            shard=Shard(**facts["shard"]),
            method=facts["method"],
            parameters=facts["parameters"],
            source=VocabularyCard.read(facts["source"]),
            target=VocabularyCard.read(facts["target"]),
            corpus=CorpusCard(**facts["corpus"]),
        )

    @property
    def build(self) -> dict[str, object]:
        """What all shards of one build have in common, by its name for people."""
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
    progress: Progress | None = None,
) -> PartialCounts:
    """Count one shard of a corpus.

    Raises:
        VocabridgeError: The method's counts do not add up over text; the corpus cannot be read.
    """
    if not isinstance(builder, CountingBuilder):
        able = ", ".join(name for name, method in METHODS.items() if issubclass(method, CountingBuilder))
        raise VocabridgeError(f"The method {builder.method} cannot be counted in shards; these can: {able}.")
    work = Work(builder, (source, target))
    (counts,) = count_corpus(work, corpus, progress or (lambda done, total: None), shard)
    cards = VocabularyCard.of(source), VocabularyCard.of(target)
    return PartialCounts(counts, shard, builder.method, builder.parameters, *cards, corpus.card)


def merge_shards(
    paths: Iterable[str | Path], *, source: Vocabulary | None = None, target: Vocabulary | None = None
) -> Alignment:
    """Make the alignment of all shards of a build.

    Args:
        paths: Files that `PartialCounts.save` wrote, in any order.
        source: The value network's vocabulary; by default what the shards' card names.
        target: The base model's vocabulary; likewise.

    Returns:
        What the build in one piece gives, with the names that the first shard has for the vocabularies.

    Raises:
        VocabridgeError: A shard is missing, there twice, or of another build; a vocabulary is not where the
            card says, or is another one.
    """
    first, counts = _add_up([Path(path) for path in paths])
    builder = METHODS[first.method](**first.parameters)
    assert isinstance(builder, CountingBuilder)
    source = _vocabulary("source", first.source, source)
    target = _vocabulary("target", first.target, target)
    sizes = first.source.size, first.target.size  # by which the counts are keyed
    merged = builder.finish(counts, source.resized(sizes[0]), target.resized(sizes[1]), first.corpus)
    merged = merged.fitted(source, target)
    names = {"source": first.source.name, "target": first.target.name}
    return dataclasses.replace(
        merged, **{side: dataclasses.replace(getattr(merged, side), name=name) for side, name in names.items()}
    )


def _add_up(paths: list[Path]) -> tuple[PartialCounts, PairCounts]:
    """Check that the files are the shards of one build, each once, and add up their counts, one at a time."""
    if not paths:
        raise VocabridgeError("There is no shard to merge; name the files that `vocabridge align --shard` wrote.")
    first, total = PartialCounts.load(paths[0]), PairCounts()
    found: dict[int, Path] = {}
    for path in paths:
        partial = PartialCounts.load(path)
        for what, value in partial.build.items():
            if value != first.build[what]:
                raise VocabridgeError(
                    f"{path}: of another build than {paths[0]} (the {what} differs); merge the shards of one build."
                )
        if partial.shard.index in found:
            raise VocabridgeError(
                f"{path}: shard {partial.shard} is there twice, also as {found[partial.shard.index]}; name it once."
            )
        found[partial.shard.index] = path
        total += partial.counts
    missing = [str(Shard(i, first.shard.of)) for i in range(1, first.shard.of + 1) if i not in found]
    if missing:
        raise VocabridgeError(f"Of {first.shard.of} shards these are missing: {', '.join(missing)}; count them too.")
    return first, total


def _vocabulary(side: str, card: VocabularyCard, given: Vocabulary | None) -> Vocabulary:
    """Return the vocabulary that the card is of."""
    if given is None:
        try:
            given = Vocabulary.load(card.name, size=card.size)
        except VocabridgeError as error:
            raise VocabridgeError(
                f"The shards' {side} tokenizer, {card.name}, is not here; name it with --{side} ({error})"
            ) from error
    if given.fingerprint != card.fingerprint:
        raise VocabridgeError(
            f"The shards were counted with the {side} tokenizer {card.name} ({card.fingerprint[:12]}), "
            f"not {given.name} ({given.fingerprint[:12]}); name the right one with --{side}."
        )
    return given
