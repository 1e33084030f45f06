"""`vocabridge align`: two tokenizers to an alignment, from the cache or built; or a shard's part of one."""

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
On eight machines, one shard of the corpus each; then, on one of them:
  vocabridge align ./small ./big --corpus texts/ --shard 1/8 -o shard1.safetensors
  vocabridge merge shard*.safetensors -o pair.safetensors
"""


def a_shard(text: str | None) -> str | None:
    """Refuse what is not i/n."""
    if text is not None:
        from vocabridge.alignment import Shard, VocabridgeError

        try:
            Shard.parse(text)
        except VocabridgeError as error:
            raise typer.BadParameter(str(error)) from error
    return text


def align(  # Long because each option is a parameter, with its help
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The value network's tokenizer.", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The base model's tokenizer.", show_default=False)],
    method: Method = "default",
    corpus: CorpusPaths = None,
    source_embeddings: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            metavar="PATH",
            help="The source model's embeddings: .npy, .safetensors or the model's folder; for embedding.",
        ),
    ] = None,
    target_embeddings: Annotated[
        Path | None, typer.Option(exists=True, metavar="PATH", help="The target model's embeddings, likewise.")
    ] = None,
    distributions: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="What the source model says along texts; for expected."),
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

    Finds which tokens of SOURCE speak for which tokens of TARGET, and how strongly.

    SOURCE and TARGET are each a hub id, a folder, a tokenizer.json, a .gguf file, or the short name of a
    packaged model: smollm2-135m-instruct, gemma-3-270m. The result is kept in the cache and found there the
    next time.
    """
    if (source_embeddings is None) != (target_embeddings is None):
        raise typer.BadParameter("Embeddings are compared: give both --source-embeddings and --target-embeddings.")
    if shard is not None and output is None:
        raise typer.BadParameter("With --shard, name a file for the partial counts: -o FILE.")
    from vocabridge import alignment
    from vocabridge.cli._vocabularies import vocabulary
    from vocabridge.data import corpus_files

    begin = perf_counter()
    tables = None
    if source_embeddings is not None and target_embeddings is not None:
        tables = alignment.EmbeddingTable.open(source_embeddings), alignment.EmbeddingTable.open(target_embeddings)
    said = None if distributions is None else alignment.Distributions.open(distributions)
    builder = alignment.make_builder(method, embeddings=tables, distributions=said)
    if shard is not None and output is not None:
        text = alignment.Corpus.open(corpus or corpus_files()).in_processes(jobs)
        with progress(f"counting shard {shard} for {source} and {target}") as tell:
            vocabularies = vocabulary(source), vocabulary(target)
            partial = alignment.count_shard(builder, *vocabularies, text, alignment.Shard.parse(shard), tell)
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
    with progress(f"aligning {source} and {target}") as tell:
        vocabularies = vocabulary(source), vocabulary(target)
        built = alignment.align(*vocabularies, method=builder, corpus=corpus, jobs=jobs, progress=tell)
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
