"""`vocabridge align`: two tokenizers to an alignment, from the cache or built."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from vocabridge.cli.options import in_existing_folder
from vocabridge.cli.output import Json, print_facts, print_json, progress
from vocabridge.cli.provenance import as_document, as_facts

EXAMPLES = """\b
Examples:
  vocabridge align smollm2-135m-instruct gemma-3-270m
  vocabridge align smollm2-135m-instruct gemma-3-270m --corpus mytexts/ -o pair.safetensors
  vocabridge align ./small/tokenizer.json Qwen/Qwen3-0.6B-Base --method exact --json
"""


class Method(str, Enum):
    """The names of `vocabridge.alignment.METHODS`."""

    default = "default"
    exact = "exact"
    retokenize = "retokenize"
    cooccurrence = "cooccurrence"


def align(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The value network's tokenizer.", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The base model's tokenizer.", show_default=False)],
    method: Annotated[
        Method, typer.Option(help="default: counts on text, re-tokenisation as a prior, equal bytes pinned.")
    ] = Method.default,
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            metavar="PATH",
            help="UTF-8 text file or folder to count on; may be repeated. Without it: text that ships here.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            dir_okay=False,
            callback=in_existing_folder,
            help="Save the alignment to this file.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Align two tokenizers.

    Finds which tokens of SOURCE speak for which tokens of TARGET, and how strongly.

    SOURCE and TARGET are each a hub id, a folder, a tokenizer.json, a .gguf file, or the short name of a
    packaged model: smollm2-135m-instruct, gemma-3-270m. The result is kept in the cache and found there the
    next time.
    """
    from vocabridge import alignment
    from vocabridge.cli.vocabularies import vocabulary
    from vocabridge.data import corpus_files

    begin = perf_counter()
    if corpus is None and alignment.METHODS[method.value].reads is not alignment.Reads.NOTHING:
        corpus = corpus_files()
    with progress(f"aligning {source} and {target}") as tell:
        built = alignment.align(
            vocabulary(source), vocabulary(target), method=method.value, corpus=corpus, progress=tell
        )
    if output is not None:
        built.save(output)
    seconds = perf_counter() - begin
    if json:
        print_json(as_document(built) | {"output": output, "seconds": seconds})
    else:
        saved = {} if output is None else {"saved to": output}
        print_facts(f"{source} -> {target}", as_facts(built) | saved | {"time": f"{seconds:.1f} s"})
