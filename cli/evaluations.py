"""An evaluation as `eval` and `demo` print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vocabridge.cli.output import print_json, print_table

if TYPE_CHECKING:
    from vocabridge.evaluation import Evaluation


def print_evaluation(report: Evaluation, *, json: bool) -> None:
    """Print one JSON document, or for people the table and what every contestant wrote."""
    if json:
        print_json(report.as_dict())
        return
    print_table(report.title, report.header, report.rows())
    for sample in report.samples:
        texts = {"reference": sample.reference} | sample.generations
        print_table(sample.prompt.strip(), (), [(name, text.strip()) for name, text in texts.items()])
