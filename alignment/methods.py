"""The alignment methods by name, and `align`, the main entry point of the package."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vocabridge.alignment.alignment import Alignment
from vocabridge.alignment.builders.base import Builder, Progress, no_progress
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
"""Builders by the names that `align` and the command line take. `cli/_options.py` repeats the names, for `--help`."""


def make_builder(
    method: str,
    *,
    embeddings: tuple[EmbeddingTable, EmbeddingTable] | None = None,
    distributions: Distributions | None = None,
) -> Builder:
    """Make the builder with this name.

    Args:
        method: A name in `METHODS`, or several joined by commas. The latter make a `Chain`, in which each method fills
            the rows and columns that the methods before it left empty.
        embeddings: The embeddings of the source's model and of the target's, for the method `embedding`.
        distributions: The source model's next-token distributions along texts, for the method `expected`.

    Raises:
        VocabridgeError: There is no such method, a method lacks its input, or an input is given that no method takes.
    """
    given: dict[str, Any] = {"embeddings": embeddings, "distributions": distributions}
    given = {name: value for name, value in given.items() if value is not None}
    builders = [_single_builder(name.strip(), given) for name in method.split(",")]
    required = {name for builder in builders for name in _required_inputs(type(builder))}
    if unused := given.keys() - required:
        raise VocabridgeError(f"the method {method} takes no {min(unused)}; leave them out")
    return builders[0] if len(builders) == 1 else Chain(tuple(builders))


def _single_builder(method: str, given: Mapping[str, Any]) -> Builder:
    if method not in METHODS:
        raise VocabridgeError(f"there is no method {method!r}; choose one of {', '.join(METHODS)}")
    required = _required_inputs(METHODS[method])
    if missing := [name for name in required if name not in given]:
        raise VocabridgeError(f"the method {method} needs {missing[0]}; give them")
    return METHODS[method](**{name: given[name] for name in required})


def _required_inputs(builder: type[Builder]) -> list[str]:
    """Return the names of a builder's fields that have no default."""
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
    progress: Progress = no_progress,
) -> Alignment:
    """Align two vocabularies: count which of their tokens correspond, by a method.

    Args:
        source: The value source's vocabulary, or an argument of `Vocabulary.load`.
        target: The base model's vocabulary, or an argument of `Vocabulary.load`.
        method: A name in `METHODS`, several joined by commas, or a builder with your own parameters.
        corpus: UTF-8 text files and folders to count on, for a method that counts on text.
        embeddings: The embeddings of the source's model and of the target's, each also as an argument of
            `EmbeddingTable.open`.
        distributions: The source model's distributions, or an argument of `Distributions.open`.
        jobs: The number of processes that count text. A single process already uses every core while it encodes.
        cache: Whether to load the alignment from the cache and store it there.
        progress: Called with the work done and the total, in bytes of text or in tokens.

    Returns:
        The alignment, with counts of shape (|target|, |source|).

    Raises:
        UsageError: There are several jobs, but the method counts no text.
        VocabridgeError: The method is unknown, or an input cannot be read or does not fit the method.
    """
    if isinstance(method, Builder):
        if embeddings is not None or distributions is not None:
            raise VocabridgeError(
                f"the builder {method.method} already holds its inputs; give them to the builder and not to `align`"
            )
        builder = method
    else:
        if embeddings is not None:
            source_table, target_table = (
                table if isinstance(table, EmbeddingTable) else EmbeddingTable.open(table) for table in embeddings
            )
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
