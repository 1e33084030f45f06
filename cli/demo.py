"""`vocabridge demo`: build and evaluate a bridge of the packaged models and the packaged value network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vocabridge.cli._evaluations import print_evaluation
from vocabridge.cli._options import number
from vocabridge.cli._output import Json, progress
from vocabridge.utils.ranges import COUNT

EXAMPLES = """\b
Examples:
  vocabridge demo
  vocabridge demo --limit 10 --output my-report
"""


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder for report.html and report.json.")
    ] = Path("report"),
    limit: Annotated[int | None, number(COUNT, "Number of test items; by default all.")] = None,
    json: Json = False,
) -> None:
    """Evaluate a bridge of two packaged models.

    Steers Gemma-3-270M with a value network of SmolLM2-135M, and compares the bridge with both models alone.
    """
    from vocabridge.evaluation.demo import run_demo

    with progress("preparing the demo") as update:
        report = run_demo(output, limit=limit, progress=update)
    print_evaluation(report, json=json)
    if not json:
        typer.echo(f"saved to {output / 'report.html'} and {output / 'report.json'}")
