"""`vocabridge inspect`: show the provenance and coverage of an alignment file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vocabridge.cli._output import Json, print_facts, print_json
from vocabridge.cli._provenance import as_document, as_facts

EXAMPLES = """\b
Examples:
  vocabridge inspect pair.safetensors
  vocabridge inspect pair.safetensors --json
"""


def inspect(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="An alignment.", show_default=False),
    ],
    json: Json = False,
) -> None:
    """Show the provenance and coverage of an alignment.

    Shows tokenizers, method, corpus, number of pairs and coverage. A damaged file is an error.
    """
    from vocabridge.alignment import Alignment

    alignment = Alignment.load(file)
    if json:
        print_json({"file": file} | as_document(alignment))
    else:
        print_facts(str(file), as_facts(alignment))
