"""`vocabridge audit`: what an alignment covers, and where the mass of a text goes."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from vocabridge.cli._options import output_file
from vocabridge.cli._output import Json, print_json, print_table, progress

EXAMPLES = """\b
Examples:
  vocabridge audit pair.safetensors
  vocabridge audit pair.safetensors --text mytexts/ -o audit.html
  vocabridge audit pair.safetensors --source smollm2-135m-instruct --target ./big/tokenizer.json --json
"""


def audit(
    file: Annotated[
        Path,
        typer.Argument(metavar="ALIGNMENT", exists=True, dir_okay=False, help="An alignment.", show_default=False),
    ],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            metavar="PATH",
            help="UTF-8 text file or folder to judge by; may be repeated. Without it: text that ships here.",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="The value network's tokenizer. Without it: where the alignment found it.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The base model's tokenizer. Without it: where the alignment found it.")
    ] = None,
    output: Annotated[Path | None, output_file("Write the report here, one HTML page with plots.")] = None,
    json: Json = False,
) -> None:
    """Show what an alignment covers and loses.

    Coverage by vocabulary and by mass on a text, by class of token; the tokens that lose most; what the digits
    do; how finely both tokenizers cut the text. Best on text that the alignment was not counted on.
    """
    from vocabridge.alignment import Alignment, Audit, Corpus
    from vocabridge.cli._vocabularies import remembered
    from vocabridge.data import corpus_files
    from vocabridge.diagnostics.audit_html import write_audit_page
    from vocabridge.diagnostics.audit_tables import Tables

    begin = perf_counter()
    alignment = Alignment.load(file)
    corpus = Corpus.open(text or corpus_files())
    with progress(f"auditing {file}") as tell:
        found = Audit.of(
            alignment,
            remembered("source", source, alignment.source),
            remembered("target", target, alignment.target),
            corpus,
            tell,
        )
    if output is not None:
        write_audit_page(found, output)
    if json:
        seconds = perf_counter() - begin
        print_json({"file": file, "output": output} | found.as_dict() | {"seconds": seconds})
        return
    for part in Tables.of(found).all():
        print_table(part.title, part.header if any(part.header) else (), part.rows)
    for sentence in found.weak:
        typer.echo(sentence)
    if output is not None:
        typer.echo(f"saved to {output}")
