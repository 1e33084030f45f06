"""All ordered pairs of ten real tokenizers: are all tokens of equal bytes found, and no other?

    python benchmarks/bench_pairs.py [NAME ...] [--json]

Three tables. The tokenizers, with the byte view of each held against xgrammar's `decoded_vocab`, an independent
reading, on every id that stands for text. The pairs: what `identical-bytes` finds against a join over the bytes of that
other reading, beside what the usual string matching finds (EVA, TokAlign and TRL compare tokens as they are spelled;
DeePEn and mergekit swap the mark of the space first), and whether `retokenize` leaves a token without a partner. The
time and memory of `identical-bytes` and `retokenize` on Gemma-3 -> Qwen, against parsing their two tokenizer files.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from real_tokenizers import REAL_TOKENIZERS
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from vocabridge.alignment import Alignment, IdenticalBytes, Retokenize, TokenKind, Vocabulary

TIMED_PAIR = ("Gemma-3", "Qwen")
SPACE_MARKS = {"Gemma-3": "▁", "MiniLM": None}
"""How tokens spell a space, where it is not "Ġ"; WordPiece has no space to swap."""


@dataclass(frozen=True)
class TokenizerRow:
    """One tokenizer and how far xgrammar reads it alike.

    Attributes:
        name: Its name.
        package: The package that ships it.
        size: Ids.
        kinds: How many ids are TEXT, BYTE, CONTROL, UNUSED.
        changes: What it changes in a text.
        oracle: Who else read it: xgrammar, or "by hand" for WordPiece, which xgrammar does not know.
        compared: Ids that stand for text, all of them compared.
        differing: Those that the oracle reads as other bytes.
        examples: Some of them: token, bytes here, bytes there.
        load_seconds: Time to load it.
    """

    name: str
    package: str
    size: int
    kinds: tuple[int, ...]
    changes: tuple[str, ...]
    oracle: str
    compared: int
    differing: int
    examples: tuple[tuple[str, str, str], ...]
    load_seconds: float


@dataclass(frozen=True)
class PairRow:
    """One ordered pair.

    Attributes:
        source: The source's name.
        target: The target's name.
        identical: Pairs of ids of equal bytes, by the independent join.
        found: Those that `identical-bytes` finds.
        wrong: Pairs that `identical-bytes` finds and that are none.
        raw_found: Those that comparing spellings finds.
        raw_wrong: Pairs that it finds and that are none.
        swapped_found: The same after swapping the mark of the space.
        swapped_wrong: The same after swapping the mark of the space.
        without_partner: Tokens of either side that `retokenize` leaves without one.
        exact_seconds: Time to build `identical-bytes`.
        retokenize_seconds: Time to build `retokenize`.
    """

    source: str
    target: str
    identical: int
    found: int
    wrong: int
    raw_found: int
    raw_wrong: int
    swapped_found: int
    swapped_wrong: int
    without_partner: int
    exact_seconds: float
    retokenize_seconds: float


@dataclass(frozen=True)
class Reading:
    """A tokenizer's tokens read twice: as they are spelled, and as bytes by somebody else.

    Attributes:
        vocabulary: Our own view.
        spelled: id -> spelling, of the ids that stand for text.
        decoded: id -> bytes by the oracle.
        oracle: Who that is.
    """

    vocabulary: Vocabulary
    spelled: dict[int, str]
    decoded: dict[int, bytes]
    oracle: str

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> Reading:
        """Read the tokens of a vocabulary."""
        names = {i: token for token, i in vocabulary.tokenizer.get_vocab().items()}
        ids = vocabulary.usable.tolist()
        spelled = {i: names[i] for i in ids}
        if json.loads(vocabulary.tokenizer.model.__getstate__())["type"] == "WordPiece":
            return cls(vocabulary, spelled, {i: spelled[i].removeprefix("##").encode() for i in ids}, "by hand")
        decoded = xgrammar_bytes(vocabulary)
        return cls(vocabulary, spelled, {i: decoded[i] for i in ids}, "xgrammar")


def xgrammar_bytes(vocabulary: Vocabulary) -> list[bytes]:
    """Return xgrammar's reading, bytes for every id."""
    from transformers import PreTrainedTokenizerFast
    from xgrammar import TokenizerInfo

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would like to know the stop tokens
        wrapped = PreTrainedTokenizerFast(tokenizer_object=vocabulary.tokenizer)
        return TokenizerInfo.from_huggingface(wrapped, vocab_size=vocabulary.size).decoded_vocab


def tokenizer_row(name: str, reading: Reading, seconds: float) -> TokenizerRow:
    """Compare the two readings of a tokenizer."""
    v = reading.vocabulary
    differing = [i for i in reading.decoded if reading.decoded[i] != v.token_bytes[i]]
    return TokenizerRow(
        name=name,
        package=REAL_TOKENIZERS[name].package,
        size=v.size,
        kinds=tuple(np.bincount(v.kinds, minlength=len(TokenKind)).tolist()),
        changes=v.changes,
        oracle=reading.oracle,
        compared=len(reading.decoded),
        differing=len(differing),
        examples=tuple((reading.spelled[i], repr(v.token_bytes[i]), repr(reading.decoded[i])) for i in differing[:5]),
        load_seconds=seconds,
    )


def joined(target: dict[int, Any], source: dict[int, Any], width: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Join two vocabularies over what their ids stand for; sorted keys y * width + w."""
    by_value = defaultdict(list)
    for w, value in source.items():
        by_value[value].append(w)
    keys = [y * width + w for y, value in target.items() for w in by_value.get(value, ())]
    return np.sort(np.array(keys, np.int64))


def matched(alignment: Alignment, source: Vocabulary, target: Vocabulary) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the pairs of tokens that stand for text, as sorted keys."""
    rows, columns = alignment.counts.tocoo().coords
    keep = np.isin(rows, target.usable) & np.isin(columns, source.usable)
    return np.sort(rows[keep].astype(np.int64) * source.size + columns[keep])


def pair_row(source: str, target: str, readings: dict[str, Reading]) -> PairRow:
    """Build one pair and count."""
    s, t = readings[source], readings[target]
    width = s.vocabulary.size
    identical = joined(t.decoded, s.decoded, width)

    def score(keys: np.ndarray[Any, Any]) -> tuple[int, int]:
        right = len(np.intersect1d(keys, identical, assume_unique=True))
        return right, len(keys) - right

    begin = perf_counter()
    exact = IdenticalBytes().build(s.vocabulary, t.vocabulary)
    middle = perf_counter()
    retokenize = Retokenize().build(s.vocabulary, t.vocabulary)
    end = perf_counter()
    found, wrong = score(matched(exact, s.vocabulary, t.vocabulary))
    raw_found, raw_wrong = score(joined(t.spelled, s.spelled, width))
    mark, other = SPACE_MARKS.get(source, "Ġ"), SPACE_MARKS.get(target, "Ġ")
    swapped = {i: token.replace(mark, other) if mark and other else token for i, token in s.spelled.items()}
    swapped_found, swapped_wrong = score(joined(t.spelled, swapped, width))
    rows, columns = retokenize.counts.tocoo().coords
    return PairRow(
        source=source,
        target=target,
        identical=len(identical),
        found=found,
        wrong=wrong,
        raw_found=raw_found,
        raw_wrong=raw_wrong,
        swapped_found=swapped_found,
        swapped_wrong=swapped_wrong,
        without_partner=len(np.setdiff1d(t.vocabulary.usable, rows)) + len(np.setdiff1d(s.vocabulary.usable, columns)),
        exact_seconds=middle - begin,
        retokenize_seconds=end - middle,
    )


def timed(files: list[Path]) -> dict[str, float]:
    """Time `identical-bytes` and `retokenize` on two tokenizer files in this process, against parsing the files."""
    start = perf_counter()
    for file in files:
        Tokenizer.from_file(str(file))
    parsed = perf_counter()
    source, target = map(Vocabulary.load, files)
    loaded = perf_counter()
    IdenticalBytes().build(source, target)
    Retokenize().build(source, target)
    built = perf_counter()
    return {
        "parse_seconds": parsed - start,
        "load_seconds": loaded - parsed,
        "build_seconds": built - loaded,
        "load_ratio": (loaded - parsed) / (parsed - start),
        "build_ratio": (built - loaded) / (parsed - start),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (1e6 if sys.platform == "darwin" else 1e3),
    }


def timed_alone(vocabularies: list[Vocabulary]) -> dict[str, float]:
    """Time them in a process of its own, so that the peak of memory is its own."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / f"{i}.json") for i in range(len(vocabularies))]
        for vocabulary, file in zip(vocabularies, files, strict=True):
            vocabulary.tokenizer.save(file, pretty=False)
        # By way of a shell that forks: a process counts the peak of the one that it was forked from as its own.
        command = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, __file__, "--timed", *files]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"


def print_tables(tokenizers: list[TokenizerRow], pairs: list[PairRow], time: dict[str, float] | None) -> None:
    console = Console(width=150)
    table = Table("tokenizer", "ids", "text", "byte", "control", "unused", "oracle", "differ", "load s", "changes")
    for t in tokenizers:
        kinds = [f"{n:,}" for n in t.kinds]
        figures = (t.oracle, f"{t.differing:,}", f"{t.load_seconds:.1f}", "; ".join(t.changes))
        table.add_row(t.name, f"{t.size:,}", *kinds, *figures)
    console.print(table)
    for t in tokenizers:
        for token, ours, theirs in t.examples:
            console.print(f"{t.name}: {token!r} is {ours} here and {theirs} there", markup=False)
    heads = ("source", "target", "equal bytes", "found %", "wrong", "raw %", "raw wrong", "swapped %", "swapped wrong")
    table = Table(*heads, "no partner", "exact s", "retokenize s")
    for p in pairs:
        shares = (percent(p.raw_found, p.identical), str(p.raw_wrong))
        swapped = (percent(p.swapped_found, p.identical), str(p.swapped_wrong))
        times = (f"{p.exact_seconds:.2f}", f"{p.retokenize_seconds:.2f}")
        own = (f"{p.identical:,}", percent(p.found, p.identical), str(p.wrong))
        table.add_row(p.source, p.target, *own, *shares, *swapped, str(p.without_partner), *times)
    console.print(table)
    if time is not None:
        console.print(" -> ".join(TIMED_PAIR), {name: round(value, 2) for name, value in time.items()})


def run(names: Iterable[str], as_json: bool) -> None:
    readings, tokenizers = {}, []
    for name in names:
        begin = perf_counter()
        vocabulary = REAL_TOKENIZERS[name].load()
        seconds = perf_counter() - begin
        readings[name] = Reading.of(vocabulary)
        tokenizers.append(tokenizer_row(name, readings[name], seconds))
    pairs = [pair_row(source, target, readings) for source, target in itertools.permutations(readings, 2)]
    time = None
    if set(TIMED_PAIR) <= set(readings):
        time = timed_alone([readings[name].vocabulary for name in TIMED_PAIR])
    if as_json:
        rows = {"tokenizers": tokenizers, "pairs": pairs}
        document = {key: [dataclasses.asdict(row) for row in each] for key, each in rows.items()}
        print(json.dumps(document | {"timed": time}, indent=2, ensure_ascii=False))
    else:
        print_tables(tokenizers, pairs, time)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(REAL_TOKENIZERS)}; by default all")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--timed", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(REAL_TOKENIZERS)):
        parser.error(f"there is no {unknown[0]}; choose of {', '.join(REAL_TOKENIZERS)}")
    if arguments.timed:
        print(json.dumps(timed(arguments.timed)))
    else:
        run(arguments.names or REAL_TOKENIZERS, arguments.json)


if __name__ == "__main__":
    main()
