"""Time the builders on two real tokenizers, as ratios to work that cannot be avoided, with the peak memory.

    python benchmarks/bench_align.py [SOURCE TARGET] [--corpus FILE ...] [--times N] [--json]

SOURCE and TARGET are names in `real_tokenizers.py`, or what `Vocabulary.load` takes; by default Gemma-3 and Qwen. The
corpus is the shipped one unless files are named. Building without text is compared with parsing the two
tokenizer.json files, counting on text with merely encoding the text with both. The last rows count the corpus once and
N times over (20 unless said otherwise): memory must not grow with the text.

Each row is measured in a process of its own, so that its peak memory is its own (with jobs, the first process's). The
work and what it is compared with take turns there, and the best of each counts, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from real_tokenizers import REAL_TOKENIZERS
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from vocabridge.alignment import Combined, Cooccurrence, Corpus, IdenticalBytes, Retokenize, Vocabulary
from vocabridge.data import corpus_files

ROUNDS = 3


@dataclass(frozen=True)
class Row:
    """What is measured.

    Attributes:
        what: The work.
        baseline: What it is compared with.
        times: How many times over the corpus is counted.
        rounds: How often it is measured.
    """

    what: str
    baseline: str
    times: int = 1
    rounds: int = ROUNDS


def planned(times: int) -> list[Row]:
    """List the rows; without text, then with it, then with more of it."""
    without_text = [
        Row(what, "parse") for what in ("load", "identical-bytes", "retokenize", "load + identical-bytes + retokenize")
    ]
    with_text = [Row(what, "encode") for what in ("cooccurrence", "default")]
    more = [Row(what, "encode", times, rounds=1) for what in ("cooccurrence", "cooccurrence, 2 jobs")]
    return without_text + with_text + more


def work_of(what: str, folders: list[str], corpus: Corpus) -> Callable[[], object]:
    """Prepare one row; what is returned is to be timed."""
    files = [Path(folder) / "tokenizer.json" for folder in folders]
    if what == "parse":
        return lambda: [Tokenizer.from_file(str(file)) for file in files]
    if what == "load":
        return lambda: [Vocabulary.load(folder) for folder in folders]
    if what == "load + identical-bytes + retokenize":
        return lambda: without_text(*(Vocabulary.load(folder) for folder in folders))
    source, target = (Vocabulary.load(folder) for folder in folders)
    if what == "encode":
        return lambda: encode_all(source, target, corpus)
    name, _, jobs = what.partition(",")
    if jobs:
        corpus = corpus.in_processes(2)
    builder = {
        "identical-bytes": IdenticalBytes(),
        "retokenize": Retokenize(),
        "cooccurrence": Cooccurrence(),
        "default": Combined(),
    }[name]
    text = None if name in ("identical-bytes", "retokenize") else corpus

    def build() -> object:
        # What a vocabulary keeps from one build to the next is worked out anew.
        for vocabulary in (source, target):
            for kept in ("canonical", "_by_bytes", "_written"):
                vars(vocabulary).pop(kept, None)
        return builder.build(source, target, text)

    return build


def without_text(source: Vocabulary, target: Vocabulary) -> None:
    for builder in (IdenticalBytes(), Retokenize()):
        builder.build(source, target)


def encode_all(source: Vocabulary, target: Vocabulary, corpus: Corpus) -> None:
    """Encode the corpus with both tokenizers, 16 pieces at a time, and do nothing with it."""
    pieces = corpus.chunks()
    while batch := list(itertools.islice(pieces, 16)):
        for vocabulary in (source, target):
            vocabulary.tokenizer.encode_batch_fast(batch, add_special_tokens=False)


def measure(row: Row, folders: list[str], files: list[Path]) -> dict[str, float]:
    """Measure one row in this process."""
    corpus = Corpus.open(files * row.times)
    work, baseline = work_of(row.what, folders, corpus), work_of(row.baseline, folders, corpus)
    seconds: dict[str, list[float]] = {"baseline_seconds": [], "seconds": []}
    for _ in range(row.rounds):
        for name, call in zip(seconds, (baseline, work), strict=True):
            begin = perf_counter()
            call()
            seconds[name].append(perf_counter() - begin)
    best = {name: min(measured) for name, measured in seconds.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return best | {"ratio": best["seconds"] / best["baseline_seconds"], "peak_megabytes": peak}


def measure_apart(number: int, arguments: argparse.Namespace, folders: list[str]) -> dict[str, float]:
    """Measure one row in a process of its own."""
    # By way of a shell that forks: a process counts the peak of the one that it was forked from as its own.
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    options = ["--corpus", *map(str, arguments.corpus), "--times", str(arguments.times), "--only", str(number)]
    command = [*shell, sys.executable, __file__, *folders, *options]
    found: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def save(name: str, folder: Path) -> str:
    """Save a tokenizer by name as a folder with tokenizer.json, as wide as its model."""
    vocabulary = REAL_TOKENIZERS[name].load() if name in REAL_TOKENIZERS else Vocabulary.load(name)
    folder.mkdir()
    vocabulary.tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "config.json").write_text(json.dumps({"vocab_size": vocabulary.size}))
    return str(folder)


def main() -> None:
    """Measure every row in processes of their own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="Gemma-3")
    parser.add_argument("target", nargs="?", default="Qwen")
    parser.add_argument("--corpus", nargs="+", type=Path, metavar="FILE", default=corpus_files())
    parser.add_argument("--times", type=int, default=20, metavar="N", help="count the corpus so many times over, too")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--only", type=int, metavar="ROW", help="measure this row, in this process")
    arguments = parser.parse_args()
    names = [arguments.source, arguments.target]
    rows = planned(arguments.times)
    if arguments.only is not None:
        print(json.dumps(measure(rows[arguments.only], names, arguments.corpus)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folders = [save(name, Path(scratch) / str(number)) for number, name in enumerate(names)]
        measured = [measure_apart(number, arguments, folders) for number in range(len(rows))]
    if arguments.json:
        found = [asdict(row) | figures for row, figures in zip(rows, measured, strict=True)]
        corpus_bytes = Corpus.open(arguments.corpus).bytes
        document = {"source": names[0], "target": names[1], "corpus_bytes": corpus_bytes, "rows": found}
        print(json.dumps(document, indent=2))
        return
    table = Table("what", "seconds", "ratio", "to", "seconds", "peak MB", title=f"{names[0]} -> {names[1]}")
    for row, figures in zip(rows, measured, strict=True):
        times = f" x{row.times}" if row.times > 1 else ""
        seconds, baseline = f"{figures['seconds']:.2f}", f"{figures['baseline_seconds']:.2f}"
        peak = f"{figures['peak_megabytes']:.0f}"
        table.add_row(row.what + times, seconds, f"{figures['ratio']:.2f}", row.baseline + times, baseline, peak)
    Console().print(table)


if __name__ == "__main__":
    main()
