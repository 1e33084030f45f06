"""Time the exact and the approximate search for neighbors between two real embedding tables.

    python benchmarks/bench_embedding.py [SOURCE TARGET] [--queries N] [--json]

SOURCE and TARGET are model names, by default the two packaged models. The neighbors of N target tokens, drawn with a
fixed seed, are searched among all source tokens; both searches take turns, batch by batch, so that a busy machine slows
both. Recall@8 is the share of the exact search's neighbors that the approximate finds. The time for all target tokens
is what the index took to build plus the search, scaled to all of them. `held-out` says what the neighbors are worth:
shared tokens that the space was not fitted on, found first or among the 8. The peak memory is that of a process which
builds the whole alignment with one search.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vocabridge.alignment import Vocabulary
from vocabridge.alignment.builders.embedding import Embedding, Search, build_index, shared_space
from vocabridge.alignment.builders.identical_bytes import exact_partners
from vocabridge.alignment.embedding_table import EmbeddingTable

NEIGHBORS = 8
HELD_OUT = 1000
BATCH = 2048


def hits(found: np.ndarray, true: np.ndarray) -> float:
    """Return the share of the true neighbors, (n, k), that are among those found, (n, k)."""
    return (
        float(np.mean([len(set(a) & set(b)) for a, b in zip(found.tolist(), true.tolist(), strict=True)]))
        / true.shape[1]
    )


def compare(source: str, target: str, queries: int) -> dict[str, Any]:
    """Measure both searches in this process."""
    s, t = Vocabulary.load(source), Vocabulary.load(target)
    tables = EmbeddingTable.open(source), EmbeddingTable.open(target)
    rng = np.random.default_rng(0)
    y, w = exact_partners(s, t)
    order = rng.permutation(len(y))
    held, fitted = order[:HELD_OUT], order[HELD_OUT:]
    begin = perf_counter()
    of_source, of_target = shared_space(*tables, w[fitted], y[fitted])
    space = perf_counter() - begin
    asked = of_target(rng.choice(t.usable, min(queries, len(t.usable)), replace=False))
    indices, built, searched = {}, {}, dict.fromkeys(Search, 0.0)
    for search in Search:
        begin = perf_counter()
        indices[search] = build_index(of_source, s.usable, search)
        built[search] = perf_counter() - begin
    found: dict[Search, list[np.ndarray]] = {search: [] for search in Search}
    for at in range(0, len(asked), BATCH):
        for search in Search:
            begin = perf_counter()
            found[search].append(indices[search].search(asked[at : at + BATCH], NEIGHBORS)[1])
            searched[search] += perf_counter() - begin
    rows = []
    for search in Search:
        own = s.usable[indices[search].search(of_target(y[held]), NEIGHBORS)[1]] == w[held][:, None]
        rows.append(
            {
                "search": search.value,
                "build_seconds": built[search],
                "search_seconds": searched[search],
                "all_seconds": built[search] + searched[search] * len(t.usable) / len(asked),
                "recall": hits(np.concatenate(found[search]), np.concatenate(found[Search.EXACT])),
                "held_out_first": float(own[:, 0].mean()),
                "held_out_among": float(own.any(axis=1).mean()),
            }
        )
    for row in rows:
        row["search_ratio"] = row["search_seconds"] / searched[Search.EXACT]
        row["all_ratio"] = row["all_seconds"] / rows[0]["all_seconds"]
    sizes = {"base": len(s.usable), "queries": len(asked), "all": len(t.usable), "dimension": asked.shape[1]}
    return {"sizes": sizes, "space_seconds": space, "rows": rows}


def peak(source: str, target: str, search: Search) -> float:
    """Build the whole alignment in this process; return its peak memory in MB."""
    tables = EmbeddingTable.open(source), EmbeddingTable.open(target)
    Embedding(tables, search=search).build(Vocabulary.load(source), Vocabulary.load(target))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("target", nargs="?", default="gemma-3-270m")
    parser.add_argument("--queries", type=int, default=1 << 14)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only == "compare":
        print(json.dumps(compare(arguments.source, arguments.target, arguments.queries)))
        return
    if arguments.only:
        print(json.dumps(peak(arguments.source, arguments.target, Search(arguments.only))))
        return
    # A packaged model is unpacked and named by its folder here, so that no measured process imports torch.
    from vocabridge.models.loading import model_folder

    names = [str(model_folder(name)) for name in (arguments.source, arguments.target)]

    def in_own_process(what: str) -> Any:
        # By way of a shell that forks: a process counts the peak of the one that it was forked from as its own.
        shell = ["sh", "-c", '"$@"; exit $?', "sh"]
        command = [
            *shell,
            sys.executable,
            str(Path(__file__)),
            *names,
            "--queries",
            str(arguments.queries),
            "--only",
            what,
        ]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    result = in_own_process("compare")
    for row in result["rows"]:
        row["peak_megabytes"] = in_own_process(row["search"])
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    sizes = result["sizes"]
    title = f"{sizes['queries']} of {sizes['all']} target tokens among {sizes['base']} source tokens"
    columns = ("search", "build s", "search s", "ratio", "all s", "ratio", "recall@8", "held-out", "peak MB")
    table = Table(*columns, title=title)
    for row in result["rows"]:
        table.add_row(
            row["search"],
            f"{row['build_seconds']:.1f}",
            f"{row['search_seconds']:.2f}",
            f"{row['search_ratio']:.3f}",
            f"{row['all_seconds']:.1f}",
            f"{row['all_ratio']:.3f}",
            f"{row['recall']:.3f}",
            f"{row['held_out_first']:.3f} / {row['held_out_among']:.3f}",
            f"{row['peak_megabytes']:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
