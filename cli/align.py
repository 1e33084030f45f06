"""`vocabridge align`: align two tokenizers, or count one shard of a corpus for them."""

from __future__ import annotations

import logging
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from vocabridge.cli._options import CorpusPaths, Jobs, Method, output_file
from vocabridge.cli._output import Json, print_facts, print_json, progress
from vocabridge.cli._provenance import as_document, as_facts, shard_document, shard_facts

EXAMPLES = """\b
Examples:
  vocabridge align smollm2-135m-instruct gemma-3-270m
  vocabridge align smollm2-135m-instruct gemma-3-270m --corpus mytexts/ --jobs 4 -o pair.safetensors
  vocabridge align ./small/tokenizer.json Qwen/Qwen3-0.6B-Base --method identical-bytes --json
  vocabridge align ./small ./big --method cooccurrence,embedding \\
    --source-embeddings ./small --target-embeddings ./big
\b
Count one shard on each of eight machines, then merge the shards on one of them:
  vocabridge align ./small ./big --corpus texts/ --shard 1/8 -o shard1.safetensors
  vocabridge merge shard*.safetensors -o pair.safetensors
"""


def a_shard(text: str | None) -> str | None:
    """Refuse a shard that is not written i/n."""
    if text is not None:
        from vocabridge.alignment import Shard, VocabridgeError

        try:
            Shard.parse(text)
        except VocabridgeError as error:
            raise typer.BadParameter(str(error)) from error
    return text


def align(  # Long because each option is a parameter, with its help
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The small model's tokenizer.", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The base model's tokenizer.", show_default=False)],
    method: Method = "default",
    corpus: CorpusPaths = None,
    source_embeddings: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            metavar="PATH",
            help="For the method embedding: the source model's embeddings: .npy, .safetensors or its folder.",
        ),
    ] = None,
    target_embeddings: Annotated[
        Path | None,
        typer.Option(exists=True, metavar="PATH", help="For the method embedding: the target model's embeddings."),
    ] = None,
    distributions: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="For the method expected: the file that `vocabridge predict` wrote."
        ),
    ] = None,
    jobs: Jobs = 1,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", callback=a_shard, help="Count only every N-th piece of the text, for `merge`."),
    ] = None,
    output: Annotated[
        Path | None, output_file("Save the alignment, or with --shard its partial counts, to this file.")
    ] = None,
    json: Json = False,
) -> None:
    """Align two tokenizers.

    Counts which tokens of SOURCE stand where a token of TARGET stands.

    SOURCE and TARGET are each a hub id, a folder, a tokenizer.json, a .gguf file, or the short name of a packaged
    model: smollm2-135m-instruct, gemma-3-270m. The cache keeps the result for the next time.
    """
    if (source_embeddings is None) != (target_embeddings is None):
        raise typer.BadParameter("Embeddings are compared; give both --source-embeddings and --target-embeddings.")
    if shard is not None and output is None:
        raise typer.BadParameter("With --shard, name a file for the partial counts: -o FILE.")
    from vocabridge import alignment
    from vocabridge.cli._vocabularies import vocabulary
    from vocabridge.data import corpus_files

    begin = perf_counter()
    tables = None
    if source_embeddings is not None and target_embeddings is not None:
        tables = alignment.EmbeddingTable.open(source_embeddings), alignment.EmbeddingTable.open(target_embeddings)
    predictions = None if distributions is None else alignment.Distributions.open(distributions)
    builder = alignment.make_builder(method, embeddings=tables, distributions=predictions)
    if shard is not None and output is not None:
        text = alignment.Corpus.open(corpus or corpus_files()).in_processes(jobs)
        with progress(f"counting shard {shard} for {source} and {target}") as update:
            vocabularies = vocabulary(source), vocabulary(target)
            partial = alignment.count_shard(builder, *vocabularies, text, alignment.Shard.parse(shard), update)
        partial.save(output)
        seconds = perf_counter() - begin
        if json:
            print_json(shard_document(partial) | {"output": output, "seconds": seconds})
        else:
            done = {"saved to": output, "time": f"{seconds:.1f} s"}
            print_facts(f"{source} -> {target}", shard_facts(partial) | done)
        return
    if corpus is None and builder.reads is not alignment.Reads.NOTHING:
        corpus = corpus_files()
    with progress(f"aligning {source} and {target}") as update:
        vocabularies = vocabulary(source), vocabulary(target)
        built = alignment.align(*vocabularies, method=builder, corpus=corpus, jobs=jobs, progress=update)
    if output is not None:
        built.save(output)
    for sentence in alignment.weak_classes(built, *vocabularies):
        logging.getLogger("vocabridge").warning("%s", sentence)
    seconds = perf_counter() - begin
    if json:
        print_json(as_document(built) | {"output": output, "seconds": seconds})
    else:
        saved = {} if output is None else {"saved to": output}
        print_facts(f"{source} -> {target}", as_facts(built) | saved | {"time": f"{seconds:.1f} s"})
