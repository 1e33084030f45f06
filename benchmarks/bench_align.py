"""Time the builders on two real tokenizers, as ratios to work that cannot be avoided, with the peak memory.

    python benchmarks/bench_align.py [SOURCE TARGET] [--corpus FILE ...] [--json]

SOURCE and TARGET are model names, by default the two packaged models; the corpus is the shipped one unless files
are named. Building without text is compared with parsing the two tokenizer.json files, counting on text with merely
encoding the text with both. Each row is measured in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from vocabridge.alignment import METHODS, Corpus, Reads, Vocabulary
from vocabridge.data import corpus_files

BASELINES = ("parse", "encode")


def seconds_of(work: Callable[[], object]) -> float:
    """Time one call."""
    begin = perf_counter()
    work()
    return perf_counter() - begin


def encode_all(source: Vocabulary, target: Vocabulary, corpus: Corpus) -> None:
    """Encode the corpus with both tokenizers and do nothing with it, 16 pieces at a time."""
    pieces = list(corpus.chunks())
    for vocabulary in (source, target):
        for at in range(0, len(pieces), 16):
            vocabulary.tokenizer.encode_batch_fast(pieces[at : at + 16], add_special_tokens=False)


def measure(what: str, source: str, target: str, corpus: Corpus) -> dict[str, float | str]:
    """Measure one row in this process."""
    vocabularies = Vocabulary.load(source), Vocabulary.load(target)
    if what == "parse":
        with tempfile.TemporaryDirectory() as folder:
            files = [f"{folder}/{i}.json" for i in range(2)]
            for vocabulary, file in zip(vocabularies, files, strict=True):
                vocabulary.tokenizer.save(file, pretty=False)
            seconds = seconds_of(lambda: [Tokenizer.from_file(file) for file in files])
    elif what == "load":
        seconds = seconds_of(lambda: [Vocabulary.load(source), Vocabulary.load(target)])
    elif what == "encode":
        seconds = seconds_of(lambda: encode_all(*vocabularies, corpus))
    else:
        builder = METHODS[what]()
        text = None if builder.reads is Reads.NOTHING else corpus
        seconds = seconds_of(lambda: builder.build(*vocabularies, text))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return {"what": what, "seconds": seconds, "peak_megabytes": peak}


def main() -> None:
    """Measure every row in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("target", nargs="?", default="gemma-3-270m")
    parser.add_argument("--corpus", nargs="+", type=Path, metavar="FILE", default=corpus_files())
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--only", choices=[*BASELINES, "load", *METHODS], help="measure one row in this process")
    arguments = parser.parse_args()
    corpus = Corpus.open(arguments.corpus)
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.source, arguments.target, corpus)))
        return
    # A short name becomes its folder here, so that no measured process imports torch.
    from vocabridge.models import model_folder

    names = [model_folder(name) for name in (arguments.source, arguments.target)]
    counting = ("encode", "cooccurrence", "default")
    rows = []
    for what in ("parse", "load", "exact", "retokenize", *counting):
        # By way of a shell that forks: a process counts the peak of the one that it was forked from as its own.
        shell = ["sh", "-c", '"$@"; exit $?', "sh"]
        options = ["--corpus", *map(str, arguments.corpus), "--only", what]
        command = [*shell, sys.executable, __file__, *names, *options]
        rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    seconds = {row["what"]: row["seconds"] for row in rows}
    for row in rows:
        row["baseline"] = "encode" if row["what"] in counting else "parse"
        row["ratio"] = row["seconds"] / seconds[row["baseline"]]
    if arguments.json:
        print(json.dumps({"corpus_bytes": corpus.bytes, "rows": rows}, indent=2))
        return
    table = Table("what", "seconds", "ratio", "to", "peak MB", title=f"{arguments.source} -> {arguments.target}")
    for row in rows:
        figures = (
            f"{row['seconds']:.2f}",
            f"{row['ratio']:.1f}",
            row["baseline"],
            f"{row['peak_megabytes']:.0f}",
        )
        table.add_row(row["what"], *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
