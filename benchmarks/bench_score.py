"""What each builder is worth: bits per byte of unseen text after the crossing, against the source model's own.

    python benchmarks/bench_score.py [--sources NAME ...] [--targets NAME ...] [--methods NAME ...] [--bytes N] [--json]

Sources are the two packaged models; targets are real tokenizers (`real_tokenizers.py`). The texts ship with Python:
the language reference as it is (`documentation`), its paragraphs alone with their lines joined (`prose`), and modules
of the standard library (`code`). No builder sees them: they count on the corpus that ships with vocabridge.
`expected` reads what the source model says along a part of that corpus, `embedding` needs the target model's
embeddings and so a packaged model as its target.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sysconfig
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from pydoc_data.topics import topics
from time import perf_counter

from real_tokenizers import REAL_TOKENIZERS
from rich.console import Console
from rich.table import Table

from vocabridge.alignment import (
    METHODS,
    Alignment,
    Corpus,
    Distributions,
    EmbeddingTable,
    Reads,
    Vocabulary,
    align,
    make_builder,
)
from vocabridge.data import corpus_files
from vocabridge.decoding.record_distributions import predict
from vocabridge.diagnostics.alignment_score import Score, score
from vocabridge.models.loading import LoadedModel, load_model
from vocabridge.options import BoundaryPolicy

MODELS = {"SmolLM2": "smollm2-135m-instruct", "Gemma-3": "gemma-3-270m"}
CHAINS = ("cooccurrence,prefix", "cooccurrence,retokenize")
SAID_BYTES = 150_000
"""How much of the shipped prose and code, each, the source model reads for `expected`."""


def documentation() -> Iterable[str]:
    """Return the pages of Python's language reference."""
    return (topics[name] for name in sorted(topics))


def prose() -> Iterable[str]:
    """Its paragraphs of three sentences and more, each on one line."""
    for page in documentation():
        for paragraph in page.split("\n\n"):
            line = " ".join(paragraph.split())
            if len(re.findall(r"[a-z]\. [A-Z]", line)) >= 2:
                yield line + "\n\n"


def code() -> Iterable[str]:
    """Modules of the standard library."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    return (path.read_text(encoding="utf-8") for path in sorted(folder.glob("[a-z]*.py")))


TEXTS: dict[str, Callable[[], Iterable[str]]] = {"prose": prose, "documentation": documentation, "code": code}


def sample(kind: str, size: int, folder: Path) -> Corpus:
    """Return a seeded sample of about `size` bytes, in passages of at most 3,000 characters."""
    pieces = [text for text in TEXTS[kind]() if text.isascii()]
    random.Random(0).shuffle(pieces)
    path, written = folder / f"{kind}.txt", 0
    with path.open("w", encoding="utf-8") as file:
        for piece in pieces:
            if written >= size:
                break
            start = max(0, (len(piece) - 3000) // 2)
            start = piece.find("\n", start) + 1 if start else 0
            passage = piece[start : start + 3000]
            written += file.write(passage if passage.endswith("\n") else passage + "\n")
    return Corpus.open([path])


def part_of_corpus(folder: Path) -> Corpus:
    """Return the first bytes of the shipped prose and code."""
    for file in corpus_files():
        if file.stem in ("prose", "code"):
            text = file.read_text(encoding="utf-8")[:SAID_BYTES]
            (folder / file.name).write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    return Corpus.open([folder])


def build(
    method: str, model: LoadedModel, target: Vocabulary, target_model: LoadedModel | None, said: Distributions | None
) -> Alignment:
    """Build one alignment, from the cache where it is there."""
    tables = None
    if target_model is not None and "embedding" in method:
        tables = EmbeddingTable.open(model.folder), EmbeddingTable.open(target_model.folder)
    builder = make_builder(method, embeddings=tables, distributions=said if "expected" in method else None)
    corpus = None if builder.reads is Reads.NOTHING else corpus_files()
    return align(model.vocabulary, target, method=builder, corpus=corpus)


def main() -> None:
    """Score every builder on every pair and print a table for each text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", choices=MODELS, default=list(MODELS))
    targets = ("SmolLM2", "Gemma-3", "Llama-3", "Qwen", "DeepSeek", "cl100k")
    parser.add_argument("--targets", nargs="+", choices=REAL_TOKENIZERS, default=targets)
    parser.add_argument("--methods", nargs="+", default=[*METHODS, *CHAINS, "cooccurrence,embedding"])
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS))
    parser.add_argument("--bytes", type=int, default=12_000, help="of each text")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    arguments = parser.parse_args()
    models = {name: load_model(short) for name, short in MODELS.items()}
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        texts = {kind: sample(kind, arguments.bytes, folder) for kind in arguments.texts}
        (folder / "part").mkdir()
        part = part_of_corpus(folder / "part")
        for source in arguments.sources:
            said = predict(models[source], part, k=32) if "expected" in arguments.methods else None
            for name in arguments.targets:
                if name == source:
                    continue
                target_model = models.get(name)
                target = target_model.vocabulary if target_model else REAL_TOKENIZERS[name].load()
                methods = [m for m in arguments.methods if target_model or "embedding" not in m]
                begin = perf_counter()
                alignments = {m: build(m, models[source], target, target_model, said) for m in methods}
                built = perf_counter() - begin
                for kind, text in texts.items():
                    begin = perf_counter()
                    found = score(models[source], target, alignments, text)
                    rows.append((source, name, kind, found))
                    if not arguments.json:
                        print_scores(source, name, kind, found, built, perf_counter() - begin)
    if arguments.json:
        document = [
            {"source": source, "target": target, "text": kind, "scores": {m: one.as_dict() for m, one in found.items()}}
            for source, target, kind, found in rows
        ]
        print(json.dumps(document, indent=1))


def print_scores(source: str, target: str, kind: str, found: dict[str, Score], built: float, seconds: float) -> None:
    """One table: every builder under every policy, as a loss against the source's own tokens."""
    some = next(iter(found.values()))
    native = some.policies[BoundaryPolicy.HEAL].overall.native_bits_per_byte
    title = (
        f"{source} -> {target}, {kind}: {native:.3f} bits per byte in its own tokens; "
        f"{some.positions:,} target tokens, {some.common_share:.1%} at common boundaries "
        f"(built in {built:.0f} s or from the cache, scored in {seconds:.0f} s)"
    )
    table = Table("builder", *(policy.value for policy in BoundaryPolicy), title=title)
    for method, one in found.items():
        losses = (one.policies[policy].overall.loss for policy in BoundaryPolicy)
        table.add_row(method, *(f"{loss:+.1%}" for loss in losses))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
