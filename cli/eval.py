"""`vocabridge eval`: what the bridge is worth beside the base, the donor alone and the ceiling."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from vocabridge.cli.options import in_existing_folder
from vocabridge.cli.output import Json, print_json, print_table, progress

EXAMPLES = """\b
Examples:
  vocabridge eval --base gemma-3-270m --value my-values --data test.jsonl --validation validation.jsonl
  vocabridge eval --base gemma-3-270m --value my-values --data test.jsonl --limit 20 -o report.json --json
"""


def evaluate(
    base: Annotated[str, typer.Option(help="The base model: packaged, hub id, folder or .gguf file.")],
    value: Annotated[Path, typer.Option(exists=True, file_okay=False, help="The value network's folder.")],
    data: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="JSONL of prompts, responses and answers to test on."),
    ],
    validation: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="JSONL on which the weights are fitted.")
    ] = None,
    ceiling: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="The base model fine-tuned itself, a folder."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only so many items.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", dir_okay=False, callback=in_existing_folder, help="Write the report here, JSON."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure what the bridge is worth.

    Bits per byte of the responses and accuracy of the answers, for the base, the donor alone, the bridge and
    the ceiling. The combination's weights are fitted on the validation items, never on the test items.
    """
    from vocabridge.evaluation import evaluate as measure

    with progress(f"evaluating {base}") as tell:
        report = measure(
            base, str(value), data, validation=validation, ceiling=ceiling, limit=limit, progress=tell
        )
    if output is not None:
        report.save(output)
    if json:
        print_json(report)
    else:
        print_table(report.title, report.header, report.rows())
