"""What a step of incremental re-tokenization costs: time a step after texts of 3, 12 and 48 KB, for real tokenizers.

A value source encodes from the last safe cut only, so the time of a step must not grow with the text. The text is
English and code of the shipped corpus, read in pieces of a few characters, with all ways in which the tokenizer may
have cut it. Each tokenizer is also held to its invariant: the ids after every piece of an adversarial text are those of
the whole text from scratch.

    python benchmarks/bench_incremental_tokenizer.py
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time

from real_tokenizers import REAL_TOKENIZERS

from vocabridge.alignment import Vocabulary
from vocabridge.data import corpus_files
from vocabridge.decoding.incremental_tokenizer import IncrementalTokenizer
from vocabridge.decoding.safe_cuts import safe_cuts
from vocabridge.projection.config import BoundaryConfig

SIZES = (3, 12, 48)
"""KB of text in front."""

STEPS = 300
CONFIG = BoundaryConfig()

LIMIT = 2.0
"""How many times the time at 3 KB a step may take at 48 KB."""

ADVERSARIAL = (
    "fox  \u00a0 \u00a0 x\n\n\u3000\u3000 \u3000日本。\n\n「x」\n  \n b\u201d\n\n\t\tif x:\n    return 12345 don't"
    " IT'S\r\n東京\uff0c请不能。在 é e\u0301 İ ½ ⑴\n ﷺ 👩‍👩‍👧🇩🇪 ▁ Ġ <0x41> a\u0300 한국어\uff1a カナ\n"
    "\n\n  \n  x\uff1b\n12 345 ١٢٣\n"
)


def main() -> None:
    """Print the table; exit with 1 if a time grows or an id is wrong."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    text = "".join(path.read_text(encoding="utf-8") for path in corpus_files())
    failed = []
    print(f"{'tokenizer':<10} " + " ".join(f"{f'{size} KB, ms':>11}" for size in SIZES) + "  cuts at")
    for name, each in REAL_TOKENIZERS.items():
        vocabulary = each.load()
        check(vocabulary)
        times = [step_time(vocabulary, text, size * 1000) for size in SIZES]
        cuts = safe_cuts(vocabulary)
        samples = {"space": "a b", "newline": "a\nb", "before a stop": "日。", "after a stop": "。日"}
        found = [label for label, sample in samples.items() if cuts and cuts.search(sample)]
        print(f"{name:<10} " + " ".join(f"{1000 * t:>11.3f}" for t in times) + f"  {', '.join(found) or 'nowhere'}")
        if found and times[-1] > LIMIT * times[0]:
            failed.append(name)
    if failed:
        sys.exit(f"error: a step takes more than {LIMIT} times as long at {SIZES[-1]} KB as at {SIZES[0]}: {failed}")


def step_time(vocabulary: Vocabulary, text: str, size: int) -> float:
    """Return the median of the seconds that a step takes after `size` characters."""
    tokenizer = IncrementalTokenizer(vocabulary)
    tokenizer.append(text[:size].encode())
    tokenizer.cover_candidates(CONFIG.tokens_taken_back, tuple(CONFIG.word_continuations))
    seconds = []
    for piece in re.findall(r"\s*\S{1,5}|\s+", text[size : size + 8 * STEPS])[:STEPS]:
        start = time.perf_counter()
        tokenizer.append(piece.encode())
        tokenizer.cover_candidates(CONFIG.tokens_taken_back, tuple(CONFIG.word_continuations))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def check(vocabulary: Vocabulary) -> None:
    """Exit with 1 if an incremental tokenizer's ids are not those of the text from scratch, byte by byte."""
    tokenizer, data = IncrementalTokenizer(vocabulary), ADVERSARIAL.encode()
    for at in range(1, len(data) + 1):
        tokenizer.append(data[at - 1 : at])
        tokenizer.cover_candidates()
        begin = [vocabulary.roles["bos"]] if vocabulary.add_bos_token else []
        if tokenizer.ids != begin + vocabulary.encode(data[:at].decode(errors="ignore")).ids.tolist():
            sys.exit(f"error: {vocabulary.name}: wrong ids after {data[:at].decode(errors='ignore')!r}")


if __name__ == "__main__":
    main()
