"""All ordered pairs of a list of vocabularies, each as `align` builds it, with the text encoded once for each.

Encoding is most of the work of a method that counts on text, and n tokenizers have n (n - 1) pairs: so every
batch of text is encoded once by each tokenizer and all pairs are counted on the encodings. Where counting is
symmetric, the counts of (B, A) are those of (A, B) turned round.
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
from vocabridge.alignment.builders.base import Builder, Progress
from vocabridge.alignment.corpus import Corpus
from vocabridge.alignment.counting.counting_builder import CountingBuilder
from vocabridge.alignment.counting.pair_counts import PairCounts
from vocabridge.alignment.counting.workers import Work, count_corpus
from vocabridge.alignment.errors import VocabridgeError
from vocabridge.alignment.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True)
class BuiltPair:
    """One pair.

    Attributes:
        source: The place of the value network's vocabulary in the list.
        target: The place of the base model's vocabulary in the list.
        alignment: What `align` builds for the two.
        seconds: What it took; of counting text, which is done for all pairs together, an equal share.
    """

    source: int
    target: int
    alignment: Alignment
    seconds: float


def align_pairs(
    builder: Builder,
    vocabularies: Sequence[Vocabulary],
    corpus: Corpus | None = None,
    progress: Progress | None = None,
) -> Iterator[BuiltPair]:
    """Build all ordered pairs, source by source.

    Args:
        builder: How.
        vocabularies: Two or more.
        corpus: The text to count on, where the method counts on text.
        progress: Told how far the counting is, or else how many pairs are built.

    Raises:
        VocabridgeError: As `Builder.build`.
    """
    builder.check_corpus(corpus)
    tell = progress or (lambda done, total: None)
    pairs = list(itertools.permutations(range(len(vocabularies)), 2))
    if not isinstance(builder, CountingBuilder) or corpus is None:
        for number, (s, t) in enumerate(pairs):
            begin = perf_counter()
            alignment = builder.build(vocabularies[s], vocabularies[t], corpus)
            yield BuiltPair(s, t, alignment, perf_counter() - begin)
            tell(number + 1, len(pairs))
        return
    begin = perf_counter()
    counts = _count(builder, vocabularies, corpus, tell)
    share = (perf_counter() - begin) / len(pairs)
    for s, t in pairs:
        begin = perf_counter()
        alignment = builder.finish(counts[s, t], vocabularies[s], vocabularies[t], corpus.card)
        yield BuiltPair(s, t, alignment, share + perf_counter() - begin)


def _count(
    builder: CountingBuilder, vocabularies: Sequence[Vocabulary], corpus: Corpus, tell: Progress
) -> dict[tuple[int, int], PairCounts]:
    """Count a corpus for all pairs."""
    choose = itertools.combinations if builder.symmetric else itertools.permutations
    pairs = tuple((s, t) for s, t in choose(range(len(vocabularies)), 2))
    counts = dict(zip(pairs, count_corpus(Work(builder, tuple(vocabularies), pairs), corpus, tell), strict=True))
    if builder.symmetric:
        for s, t in pairs:
            counts[t, s] = counts[s, t].transposed(vocabularies[s], vocabularies[t])
    return counts


def short_names(names: Sequence[str]) -> list[str]:
    """Return names for files, one for each tokenizer.

    The last part of the path or hub id that says something; the whole of it where two would be the same.

    Raises:
        VocabridgeError: Two have the same name even so.
    """
    short, whole = [_safe(_last_part(name)) for name in names], [_safe(name) for name in names]
    found = whole if len(set(short)) < len(short) else short
    if twice := [name for name, times in Counter(found).items() if times > 1]:
        raise VocabridgeError(f"Two tokenizers would both be called {twice[0]}; name every one once.")
    return found


def _last_part(name: str) -> str:
    path = Path(name)
    if path.name == "tokenizer.json" and path.parent.name:
        return path.parent.name
    return path.stem if path.suffix in (".gguf", ".json") else path.name


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "tokenizer"
