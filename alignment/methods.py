"""The methods by name, and `align`, the one call that users make."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .alignment import Alignment
from .builder import Builder, Progress
from .cache import cached_alignment
from .combined import Combined
from .cooccurrence import Cooccurrence
from .corpus import Corpus
from .errors import VocabridgeError
from .exact import Exact
from .retokenize import Retokenize
from .vocabulary import Vocabulary

METHODS: dict[str, type[Builder]] = {b.method: b for b in (Combined, Exact, Retokenize, Cooccurrence)}
"""Builders by the names that `align` and the command line take."""


def align(
    source: Vocabulary | str | Path,
    target: Vocabulary | str | Path,
    *,
    method: str | Builder = "default",
    corpus: Corpus | Iterable[str | Path] | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> Alignment:
    """Align two vocabularies: count how often their tokens speak for each other.

    Args:
        source: The value network's vocabulary, or what `Vocabulary.load` takes.
        target: The base model's vocabulary, or what `Vocabulary.load` takes.
        method: A name in `METHODS`, or a builder with parameters of your own.
        corpus: UTF-8 text files and folders to count on, for the methods that count on text.
        cache: Whether to take it from the cache and put it there.
        progress: Called with what is done and what there is to do.

    Returns:
        The alignment, counts of shape (|target|, |source|).

    Raises:
        VocabridgeError: An unknown method; a vocabulary or a corpus that cannot be read or does not fit the
            method.
    """
    if isinstance(method, Builder):
        builder = method
    elif method in METHODS:
        builder = METHODS[method]()
    else:
        raise VocabridgeError(f"There is no method {method!r}; choose one of {', '.join(METHODS)}.")
    if not isinstance(source, Vocabulary):
        source = Vocabulary.load(source)
    if not isinstance(target, Vocabulary):
        target = Vocabulary.load(target)
    if corpus is not None and not isinstance(corpus, Corpus):
        corpus = Corpus.open([corpus] if isinstance(corpus, (str, Path)) else corpus)
    builder.check_corpus(corpus)
    build = cached_alignment if cache else type(builder).build
    return build(builder, source, target, corpus, progress)
