"""The methods by name, and `align`, the one call that users make."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vocabridge.alignment.alignment import Alignment
from vocabridge.alignment.builders.base import Builder, Progress
from vocabridge.alignment.builders.chain import Chain
from vocabridge.alignment.builders.combined import Combined
from vocabridge.alignment.builders.cooccurrence import Cooccurrence
from vocabridge.alignment.builders.dtw import DTW
from vocabridge.alignment.builders.dtw_counts import DTWCounts
from vocabridge.alignment.builders.edit_distance import EditDistance
from vocabridge.alignment.builders.embedding import Embedding
from vocabridge.alignment.builders.expected import Expected
from vocabridge.alignment.builders.identical_bytes import IdenticalBytes
from vocabridge.alignment.builders.prefix import Prefix
from vocabridge.alignment.builders.retokenize import Retokenize
from vocabridge.alignment.cache import cached_alignment
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.distributions import Distributions
from vocabridge.alignment.embedding_table import EmbeddingTable
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary

METHODS: dict[str, type[Builder]] = {
    builder.method: builder
    for builder in (
        Combined,
        IdenticalBytes,
        Retokenize,
        Cooccurrence,
        Expected,
        Embedding,
        EditDistance,
        DTWCounts,
        DTW,
        Prefix,
    )
}
"""Builders by the names that `align` and the command line take."""


def make_builder(
    method: str,
    *,
    embeddings: tuple[EmbeddingTable, EmbeddingTable] | None = None,
    distributions: Distributions | None = None,
) -> Builder:
    """Make the builder of this name.

    Args:
        method: A name in `METHODS`, or several joined by commas: a `Chain`, in which each fills what the ones
            before it left open.
        embeddings: Of the source's model and of the target's, for the method `embedding`.
        distributions: What the source model says along texts, for the method `expected`.

    Raises:
        VocabridgeError: No such method, a method lacks its input, or no method takes an input that was given.
    """
    given: dict[str, Any] = {"embeddings": embeddings, "distributions": distributions}
    given = {name: value for name, value in given.items() if value is not None}
    builders = [_one_builder(name.strip(), given) for name in method.split(",")]
    taken = {name for builder in builders for name in _inputs(type(builder))}
    if unused := given.keys() - taken:
        raise VocabridgeError(f"The method {method} takes no {min(unused)}: leave them out.")
    return builders[0] if len(builders) == 1 else Chain(tuple(builders))


def _one_builder(name: str, given: Mapping[str, Any]) -> Builder:
    if name not in METHODS:
        raise VocabridgeError(f"There is no method {name!r}; choose one of {', '.join(METHODS)}.")
    inputs = _inputs(METHODS[name])
    if missing := [each for each in inputs if each not in given]:
        raise VocabridgeError(f"The method {name} works on {missing[0]}: give them.")
    return METHODS[name](**{each: given[each] for each in inputs})


def _inputs(builder: type[Builder]) -> list[str]:
    """Return the names of the inputs that a builder cannot do without: its fields that have no default."""
    missing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(builder) if f.default is missing and f.default_factory is missing]


def align(
    source: Vocabulary | str | Path,
    target: Vocabulary | str | Path,
    *,
    method: str | Builder = "default",
    corpus: Corpus | Iterable[str | Path] | None = None,
    embeddings: tuple[EmbeddingTable | str | Path, EmbeddingTable | str | Path] | None = None,
    distributions: Distributions | str | Path | None = None,
    jobs: int = 1,
    cache: bool = True,
    progress: Progress | None = None,
) -> Alignment:
    """Align two vocabularies: count how often their tokens speak for each other.

    Args:
        source: The value network's vocabulary, or what `Vocabulary.load` takes.
        target: The base model's vocabulary, or what `Vocabulary.load` takes.
        method: A name in `METHODS`, several joined by commas, or a builder with parameters of your own.
        corpus: UTF-8 text files and folders to count on, for the methods that count on text.
        embeddings: The source model's and the target model's, or what `EmbeddingTable.open` takes.
        distributions: The source model's, or what `Distributions.open` takes.
        jobs: How many processes share the counting of text; the result does not depend on it. One already uses
            every core while it encodes.
        cache: Whether to take it from the cache and put it there.
        progress: Called with what is done and what there is to do.

    Returns:
        The alignment, counts of shape (|target|, |source|).

    Raises:
        VocabridgeError: An unknown method; a vocabulary, a corpus or another input that cannot be read or does
            not fit the method; or several jobs where no text is counted.
    """
    if isinstance(method, Builder):
        if embeddings is not None or distributions is not None:
            raise VocabridgeError(f"The builder {method.method} holds its inputs itself: give it them, not `align`.")
        builder = method
    else:
        if embeddings is not None:
            tables = (t if isinstance(t, EmbeddingTable) else EmbeddingTable.open(t) for t in embeddings)
            source_table, target_table = tables
            embeddings = source_table, target_table
        if isinstance(distributions, (str, Path)):
            distributions = Distributions.open(distributions)
        builder = make_builder(method, embeddings=embeddings, distributions=distributions)
    if not isinstance(source, Vocabulary):
        source = Vocabulary.load(source)
    if not isinstance(target, Vocabulary):
        target = Vocabulary.load(target)
    if corpus is not None and not isinstance(corpus, Corpus):
        corpus = Corpus.open([corpus] if isinstance(corpus, (str, Path)) else corpus)
    builder.check_corpus(corpus)
    builder.check_jobs(jobs, corpus)
    if corpus is not None:
        corpus = corpus.in_processes(jobs)
    build = cached_alignment if cache else type(builder).build
    return build(builder, source, target, corpus, progress)
