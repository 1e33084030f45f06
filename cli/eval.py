"""`vocabridge eval`: what the bridge is worth beside the base, the donor alone and the ceiling."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vocabridge.cli.evaluations import print_evaluation
from vocabridge.cli.options import AlignmentFile, Base, CombinationFile, Untuned, Value, output_file
from vocabridge.cli.output import Json, progress

EXAMPLES = """\b
Examples:
  vocabridge eval --base gemma-3-270m --value my-values --data test.jsonl --validation validation.jsonl
  vocabridge eval --base gemma-3-270m --value my-values --data test.jsonl --limit 20 -o report.json --json
  vocabridge eval --base ./big --value ./small-chat --untuned ./small --data test.jsonl --answers 0
"""


def evaluate(
    base: Base,
    value: Value,
    data: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="JSONL of prompts, responses and answers to test on."),
    ],
    untuned: Untuned = None,
    alignment: AlignmentFile = None,
    validation: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="JSONL on which the weights are fitted.")
    ] = None,
    combination: CombinationFile = None,
    ceiling: Annotated[
        str | None, typer.Option(help="The base model fine-tuned itself, by name, or a value network trained on it.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only so many items.")] = None,
    answers: Annotated[int | None, typer.Option(min=0, help="Ask for the answers of only so many items.")] = None,
    output: Annotated[
        Path | None,
        output_file("Write the report here, JSON; `bridge --combination` reads the fitted weights from it."),
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
            base,
            value,
            data,
            untuned=untuned,
            alignment=alignment,
            validation=validation,
            combination=combination,
            ceiling=ceiling,
            limit=limit,
            answers=answers,
            progress=tell,
        )
    if output is not None:
        report.save(output)
    print_evaluation(report, json=json)
