"""`vocabridge audit`: what an alignment covers and what it loses, by vocabulary and by text."""

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
            help="UTF-8 text file or folder to audit on; may be repeated. By default the packaged corpus.",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="The small model's tokenizer. By default the one that the alignment records.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The base model's tokenizer. By default the one that the alignment records.")
    ] = None,
    output: Annotated[Path | None, output_file("Write the report to this file, an HTML page with plots.")] = None,
    json: Json = False,
) -> None:
    """Show what an alignment covers and loses.

    Shows coverage of the vocabularies and of a text, by class of token, the tokens that lose most, how both tokenizers
    cut digits, and how many tokens they need for the text. Audit on text that the alignment was not counted on.
    """
    from vocabridge.alignment import Alignment, Audit, Corpus
    from vocabridge.cli._vocabularies import recorded_vocabulary
    from vocabridge.data import corpus_files
    from vocabridge.diagnostics.audit_html import write_audit_page
    from vocabridge.diagnostics.audit_tables import Tables

    begin = perf_counter()
    alignment = Alignment.load(file)
    corpus = Corpus.open(text or corpus_files())
    with progress(f"auditing {file}") as update:
        result = Audit.of(
            alignment,
            recorded_vocabulary("source", source, alignment.source),
            recorded_vocabulary("target", target, alignment.target),
            corpus,
            update,
        )
    if output is not None:
        write_audit_page(result, output)
    if json:
        seconds = perf_counter() - begin
        print_json({"file": file, "output": output} | result.as_dict() | {"seconds": seconds})
        return
    for table in Tables.of(result).all():
        print_table(table.title, table.header if any(table.header) else (), table.rows)
    for sentence in result.weak:
        typer.echo(sentence)
    if output is not None:
        typer.echo(f"saved to {output}")
