"""`vocabridge demo`: the main job from end to end, on the packaged models and the shipped value network."""

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
    limit: Annotated[int | None, number(COUNT, "Evaluate on only so many items.")] = None,
    json: Json = False,
) -> None:
    """Do the main job on two packaged models.

    Steers Gemma-3-270M with what SmolLM2-135M learned, and says what that was worth.
    """
    from vocabridge.evaluation.demo import run_demo

    with progress("preparing the demo") as tell:
        report = run_demo(output, limit=limit, progress=tell)
    print_evaluation(report, json=json)
    if not json:
        typer.echo(f"Written: {output / 'report.html'}, {output / 'report.json'}")
