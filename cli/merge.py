"""`vocabridge merge`: merge the partial counts of all shards into the alignment that one build would make."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from vocabridge.cli._options import output_file
from vocabridge.cli._output import Json, print_facts, print_json, progress
from vocabridge.cli._provenance import as_document, as_facts

EXAMPLES = """\b
Examples:
  vocabridge merge shard1.safetensors shard2.safetensors -o pair.safetensors
  vocabridge merge shards/*.safetensors -o pair.safetensors --source ./small --target ./big --json
"""


def merge(
    shards: Annotated[
        list[Path],
        typer.Argument(
            metavar="SHARD...",
            exists=True,
            dir_okay=False,
            help="Files that `align --shard` wrote, in any order.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, output_file("Save the alignment to this file.")],
    source: Annotated[
        str | None, typer.Option(help="The small model's tokenizer. By default the one that the shards record.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The base model's tokenizer. By default the one that the shards record.")
    ] = None,
    json: Json = False,
) -> None:
    """Merge the shards of an alignment.

    Adds the counts of `align --shard 1/N` to `N/N`. The alignment is the same, to the last bit, as one that is built
    without shards. A shard that is missing, given twice or of another build is an error.
    """
    from vocabridge.alignment import merge_shards
    from vocabridge.cli._vocabularies import vocabulary

    begin = perf_counter()
    with progress(f"merging {len(shards)} shards"):
        merged = merge_shards(
            shards,
            source=None if source is None else vocabulary(source),
            target=None if target is None else vocabulary(target),
        )
    merged.save(output)
    seconds = perf_counter() - begin
    if json:
        print_json(as_document(merged) | {"output": output, "seconds": seconds})
    else:
        title = f"{merged.source.name} -> {merged.target.name}"
        print_facts(title, as_facts(merged) | {"saved to": output, "time": f"{seconds:.1f} s"})
