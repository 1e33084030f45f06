"""`vocabridge pairs`: align all ordered pairs of a list of tokenizers."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from vocabridge.cli._options import CorpusPaths, Jobs, Method, output_folder
from vocabridge.cli._output import Json, count, print_json, print_table, progress
from vocabridge.cli._provenance import as_document

EXAMPLES = """\b
Examples:
  vocabridge pairs smollm2-135m-instruct gemma-3-270m -o pairs
  vocabridge pairs ./a ./b ./c -o pairs --corpus mytexts/ --method cooccurrence --jobs 4
  vocabridge pairs ./a ./b ./c -o pairs --method identical-bytes --json
"""


def pairs(
    tokenizers: Annotated[
        list[str], typer.Argument(metavar="TOKENIZER...", help="Two or more, as for `align`.", show_default=False)
    ],
    output: Annotated[Path, output_folder("Folder to write to, a file SOURCE--TARGET.safetensors for each pair.")],
    method: Method = "default",
    corpus: CorpusPaths = None,
    jobs: Jobs = 1,
    json: Json = False,
) -> None:
    """Align all pairs of tokenizers, in both directions.

    Each file is the one that `align` would write for its pair, but every tokenizer is loaded and encodes the text only
    once.
    """
    if len(tokenizers) < 2:
        raise typer.BadParameter("Name two tokenizers or more.")
    from vocabridge import alignment
    from vocabridge.cli._vocabularies import vocabulary
    from vocabridge.data import corpus_files

    begin = perf_counter()
    builder = alignment.make_builder(method)
    names = alignment.short_names(tokenizers)
    text = None
    if corpus is not None or builder.reads is not alignment.Reads.NOTHING:
        text = alignment.Corpus.open(corpus or corpus_files()).in_processes(jobs)
    builder.check_jobs(jobs, text)
    documents, rows = [], []
    with progress(f"aligning all pairs of {len(tokenizers)} tokenizers") as update:
        vocabularies = [vocabulary(name) for name in tokenizers]
        for pair in alignment.align_pairs(builder, vocabularies, text, update):
            output.mkdir(exist_ok=True)
            source, target = names[pair.source], names[pair.target]
            file = output / f"{source}--{target}.safetensors"
            pair.alignment.save(file)
            documents.append(as_document(pair.alignment) | {"output": file, "seconds": pair.seconds})
            summary = pair.alignment.summary()
            figures = count(summary.pairs), f"{summary.target_coverage:.2%}", f"{summary.source_coverage:.2%}"
            rows.append((f"{source} -> {target}", *figures, f"{pair.seconds:.2f}"))
    seconds = perf_counter() - begin
    if json:
        print_json({"folder": output, "pairs": documents, "seconds": seconds})
    else:
        header = ("pair", "pairs of tokens", "target covered", "source covered", "seconds")
        print_table(f"{len(rows)} alignments in {output}, {seconds:.1f} s", header, rows)
