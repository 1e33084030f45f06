"""Time the search for every target token's nearest source token, against comparing all pairs.

    python benchmarks/bench_edit_distance.py [SOURCE TARGET] [--json]

SOURCE and TARGET are names of `real_tokenizers.py`. Comparing all pairs is measured on 200 random target tokens (with
one call a pair, as published code does it, on 10 of them) and extrapolated to all. The partners of the 200 must be
the same; else the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist
from real_tokenizers import REAL_TOKENIZERS
from rich.console import Console
from rich.table import Table

from vocabridge.alignment import EditDistance
from vocabridge.alignment.builders.edit_distance import characters
from vocabridge.alignment.builders.frequency import frequencies

SAMPLE = 200
SINGLE = 10


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Time one call; return the seconds and what it gave."""
    begin = perf_counter()
    result = work()
    return perf_counter() - begin, result


def peak_megabytes() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def measure(source_name: str, target_name: str) -> dict[str, Any]:
    """Measure everything in this process."""
    source, target = (REAL_TOKENIZERS[name].load() for name in (source_name, target_name))
    loaded = peak_megabytes()
    seconds, alignment = timed(lambda: EditDistance().build(source, target))
    peak = peak_megabytes()
    often = frequencies(source, None, lambda done: None)
    ids = sorted(source.canonical.values(), key=lambda w: (-often[w], w))
    choices = [characters(source.token_bytes[w] or b"") for w in ids]
    sample = np.random.default_rng(0).choice(target.usable, SAMPLE, replace=False)
    queries = [characters(target.token_bytes[y] or b"") for y in sample.tolist()]
    by_block, distances = timed(lambda: cdist(queries, choices, scorer=Levenshtein.distance, workers=-1))
    by_call, _ = timed(lambda: [min(choices, key=lambda c, q=q: Levenshtein.distance(q, c)) for q in queries[:SINGLE]])
    expected = [ids[i] for i in distances.argmin(axis=1).tolist()]
    rows = alignment.counts[sample]
    found = [columns.tolist() for columns in np.split(rows.indices, rows.indptr[1:-1])]
    same = sum(columns == [w] for columns, w in zip(found, expected, strict=True))
    tokens = len(target.usable)
    return {
        "source": source_name,
        "target": target_name,
        "source_tokens": len(choices),
        "target_tokens": tokens,
        "seconds": seconds,
        "seconds_all_pairs_many_at_once": by_block * tokens / SAMPLE,
        "seconds_all_pairs_one_call_each": by_call * tokens / SINGLE,
        "same_partners": f"{same} of {SAMPLE}",
        "all_same": same == SAMPLE,
        "peak_megabytes_loaded": loaded,
        "peak_megabytes": peak,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", choices=REAL_TOKENIZERS, default="Qwen", metavar="SOURCE")
    parser.add_argument("target", nargs="?", choices=REAL_TOKENIZERS, default="Gemma-3", metavar="TARGET")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    found = measure(arguments.source, arguments.target)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        title = (
            f"{found['target']} ({found['target_tokens']:,} tokens) to {found['source']} ({found['source_tokens']:,})"
        )
        table = Table("how", "seconds", "times", title=title)
        for how, key in (
            ("edit-distance, all tokens", "seconds"),
            ("all pairs, many at once (extrapolated)", "seconds_all_pairs_many_at_once"),
            ("all pairs, one call each (extrapolated)", "seconds_all_pairs_one_call_each"),
        ):
            table.add_row(how, f"{found[key]:,.1f}", f"{found[key] / found['seconds']:,.1f}")
        Console().print(table)
        print(f"same partners: {found['same_partners']} random tokens")
        loaded, peak = found["peak_megabytes_loaded"], found["peak_megabytes"]
        print(f"peak memory: {loaded:.0f} MB with both tokenizers loaded, {peak:.0f} MB after the search")
    sys.exit(not found["all_same"])


if __name__ == "__main__":
    main()
