"""Build the alignments of all ordered pairs of a list of vocabularies.

Each alignment equals that of `align`. Encoding is most of the work of a method that counts on text, and n tokenizers
have n (n - 1) pairs. Therefore each tokenizer encodes every batch of text once, and all pairs are counted on these
encodings. Where counting is symmetric, the counts of (B, A) are the transposed counts of (A, B).
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from vocabridge.alignment.alignment import Alignment
from vocabridge.alignment.builders.base import Builder, Progress, no_progress
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.counting.counting_builder import CountingBuilder
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.counting.workers import Work, count_corpus
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class BuiltPair:
    """The alignment of one ordered pair.

    Attributes:
        source: The index of the value source's vocabulary in the list.
        target: The index of the base model's vocabulary in the list.
        alignment: The alignment that `align` builds for the two.
        seconds: The time that the alignment took. Text is counted for all pairs at once, and each pair has an equal
            share of that time.
    """

    source: int
    target: int
    alignment: Alignment
    seconds: float


def align_pairs(
    builder: Builder,
    vocabularies: Sequence[Vocabulary],
    corpus: Corpus | None = None,
    progress: Progress = no_progress,
) -> Iterator[BuiltPair]:
    """Build the alignments of all ordered pairs, in the order of their sources.

    Args:
        builder: The method.
        vocabularies: Two or more vocabularies.
        corpus: The text to count on, for a method that counts on text.
        progress: Called with the bytes counted, or, for a method without text, with the number of pairs built.

    Raises:
        VocabridgeError: As for `Builder.build`.
    """
    builder.check_corpus(corpus)
    pairs = list(itertools.permutations(range(len(vocabularies)), 2))
    if not isinstance(builder, CountingBuilder) or corpus is None:
        for number, (s, t) in enumerate(pairs):
            begin = perf_counter()
            alignment = builder.build(vocabularies[s], vocabularies[t], corpus)
            yield BuiltPair(s, t, alignment, perf_counter() - begin)
            progress(number + 1, len(pairs))
        return
    begin = perf_counter()
    counts = _count(builder, vocabularies, corpus, progress)
    counting_share = (perf_counter() - begin) / len(pairs)
    for s, t in pairs:
        begin = perf_counter()
        alignment = builder.finish(counts[s, t], vocabularies[s], vocabularies[t], corpus.card)
        yield BuiltPair(s, t, alignment, counting_share + perf_counter() - begin)


def _count(
    builder: CountingBuilder, vocabularies: Sequence[Vocabulary], corpus: Corpus, progress: Progress
) -> dict[tuple[int, int], PairCounts]:
    """Count a corpus for all ordered pairs, keyed (source index, target index)."""
    choose = itertools.combinations if builder.symmetric else itertools.permutations
    pairs = tuple((s, t) for s, t in choose(range(len(vocabularies)), 2))
    counts = dict(zip(pairs, count_corpus(Work(builder, tuple(vocabularies), pairs), corpus, progress), strict=True))
    if builder.symmetric:
        for s, t in pairs:
            counts[t, s] = counts[s, t].transposed(vocabularies[s], vocabularies[t])
    return counts


def short_names(names: Sequence[str]) -> list[str]:
    """Return a file name for each tokenizer.

    Args:
        names: Paths or hub ids.

    Returns:
        The last significant part of each path or hub id; if two of these are equal, all paths or ids in full.

    Raises:
        VocabridgeError: Two full names are equal, too.
    """
    short_forms, full_forms = [_safe(_last_part(name)) for name in names], [_safe(name) for name in names]
    file_names = full_forms if len(set(short_forms)) < len(short_forms) else short_forms
    if duplicates := [name for name, times in Counter(file_names).items() if times > 1]:
        raise VocabridgeError(f"two tokenizers would both be called {duplicates[0]}; name each tokenizer once")
    return file_names


def _last_part(name: str) -> str:
    path = Path(name)
    if path.name == "tokenizer.json" and path.parent.name:
        return path.parent.name
    return path.stem if path.suffix in (".gguf", ".json") else path.name


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "tokenizer"
