"""Time warping two encodings of a text onto each other, against the quadratic programme as published code has it.

    python benchmarks/bench_dtw.py [SOURCE TARGET] [--corpus FILE ...] [--json]

SOURCE and TARGET are names of `real_tokenizers.py`; the text is the first 1,500 target tokens of the corpus, by
default the shipped one. All rows begin with the text, so that each pays for encoding it; `dtw-counts` warps it in one
passage, and must count exactly the pairs of the quadratic programme (else the exit status is 1). Memory is what Python
and numpy allocate at most, in a second run. Below, seconds for the whole corpus, as ratios to encoding it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein
from real_tokenizers import REAL_TOKENIZERS
from rich.console import Console
from rich.table import Table

from vocabridge.alignment import DTW, Cooccurrence, Corpus, DTWCounts, PairCounts, Vocabulary
from vocabridge.alignment.builders.edit_distance import characters
from vocabridge.data import corpus_files

TOKENS = 1500
REPEATS = 5


def quadratic(source: Vocabulary, target: Vocabulary, text: str) -> PairCounts:
    """Count the pairs on the least path: every pair of tokens is compared, every cell filled, one at a time."""
    ids_y, ids_w = (
        [i for i in vocabulary.encode(text).ids.tolist() if vocabulary.token_bytes[i] is not None]
        for vocabulary in (target, source)
    )
    a, b = (
        [characters(vocabulary.token_bytes[i] or b"") for i in ids]
        for vocabulary, ids in ((target, ids_y), (source, ids_w))
    )

    def cost(x: str, z: str) -> float:
        x, z = x.replace(" ", ""), z.replace(" ", "")
        distance = Levenshtein.distance(x, z)
        return distance * 0.1 if x in z or z in x else distance

    total = np.full((len(a) + 1, len(b) + 1), np.inf)
    total[0, 0] = 0
    for i, x in enumerate(a):
        for j, z in enumerate(b):
            total[i + 1, j + 1] = cost(x, z) + min(total[i, j], total[i, j + 1], total[i + 1, j])
    i, j = len(a) - 1, len(b) - 1
    keys = [ids_y[i] * source.size + ids_w[j]]
    while (i, j) != (0, 0):
        i, j = min([(i - 1, j - 1), (i - 1, j), (i, j - 1)], key=lambda cell: total[cell[0] + 1, cell[1] + 1])
        keys.append(ids_y[i] * source.size + ids_w[j])
    return PairCounts.of(np.array(keys, np.int64))


def seconds_of(work: Callable[[], Any], repeats: int = 1) -> float:
    """Return the least seconds of some calls."""
    times = []
    for _ in range(repeats):
        begin = perf_counter()
        work()
        times.append(perf_counter() - begin)
    return min(times)


def megabytes_of(work: Callable[[], Any]) -> float:
    """Return what one call allocates at most."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def first_tokens(vocabulary: Vocabulary, corpus: Corpus) -> str:
    """Return the first so many tokens of a corpus as text."""
    text = ""
    for piece in corpus.chunks():
        text += piece
        starts = vocabulary.encode(text).starts
        if len(starts) > TOKENS:
            return text.encode()[: starts[TOKENS]].decode(errors="ignore")
    return text


def measure(source: Vocabulary, target: Vocabulary, corpus: Corpus) -> dict[str, Any]:
    """Measure the text and the whole corpus."""
    text = first_tokens(target, corpus)
    ways: dict[str, Callable[[], PairCounts]] = {
        "quadratic programme": lambda: quadratic(source, target, text),
        "dtw-counts": lambda: DTWCounts(passage=sys.maxsize).count_batch(source, target, [text]),
        "dtw": lambda: DTW().count_batch(source, target, [text]),
    }
    rows = [
        {
            "how": how,
            "seconds": seconds_of(work, 1 if how == "quadratic programme" else REPEATS),
            "megabytes": megabytes_of(work),
        }
        for how, work in ways.items()
    ]
    one, other = ways["quadratic programme"](), ways["dtw-counts"]()
    equal = np.array_equal(one.keys, other.keys) and np.array_equal(one.counts, other.counts)

    def encode() -> None:
        pieces = list(corpus.chunks())
        for vocabulary in (source, target):
            for at in range(0, len(pieces), 16):
                vocabulary.tokenizer.encode_batch_fast(pieces[at : at + 16], add_special_tokens=False)

    whole = [{"how": "encoding with both", "seconds": seconds_of(encode)}]
    for builder in (Cooccurrence(), DTW(), DTWCounts()):
        seconds = seconds_of(lambda builder=builder: builder.build(source, target, corpus))  # type: ignore[misc]
        whole.append({"how": builder.method, "seconds": seconds})
    return {
        "tokens": [len(vocabulary.encode(text).ids) for vocabulary in (target, source)],
        "equal": equal,
        "text": rows,
        "corpus_bytes": corpus.bytes,
        "corpus": whole,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", choices=REAL_TOKENIZERS, default="SmolLM2", metavar="SOURCE")
    parser.add_argument("target", nargs="?", choices=REAL_TOKENIZERS, default="Gemma-3", metavar="TARGET")
    parser.add_argument("--corpus", nargs="+", type=Path, metavar="FILE", default=corpus_files())
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    arguments = parser.parse_args()
    source, target = (REAL_TOKENIZERS[name].load() for name in (arguments.source, arguments.target))
    found = measure(source, target, Corpus.open(arguments.corpus))
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        pair = f"{arguments.source} -> {arguments.target}"
        tokens = " and ".join(f"{n:,}" for n in found["tokens"])
        table = Table("how", "seconds", "times faster", "peak MB", title=f"{pair}: one text of {tokens} tokens")
        for row in found["text"]:
            ratio = found["text"][0]["seconds"] / row["seconds"]
            table.add_row(row["how"], f"{row['seconds']:.4f}", f"{ratio:,.0f}", f"{row['megabytes']:.1f}")
        Console().print(table)
        print(f"dtw-counts counts the pairs of the quadratic programme: {'yes' if found['equal'] else 'NO'}")
        table = Table("how", "seconds", "times encoding", title=f"{pair}: {found['corpus_bytes'] / 1e6:.1f} MB of text")
        for row in found["corpus"]:
            ratio = row["seconds"] / found["corpus"][0]["seconds"]
            table.add_row(row["how"], f"{row['seconds']:.2f}", f"{ratio:.1f}")
        Console().print(table)
    sys.exit(not found["equal"])


if __name__ == "__main__":
    main()
