"""The output of `eval` and `demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vocabridge.cli._output import print_json, print_table

if TYPE_CHECKING:
    from vocabridge.evaluation.results import Evaluation


def print_evaluation(report: Evaluation, *, json: bool) -> None:
    """Print an evaluation as one JSON document, or as tables with a few generated texts."""
    if json:
        print_json(report.as_dict())
        return
    print_table(report.title, report.header, report.rows())
    print_table("Costs, and settings chosen on the validation items", report.COSTS, report.costs())
    header, rows = report.by_alpha()
    if rows:
        print_table("Bits a token on the validation items, by alpha", header, rows)
    for sample in report.samples:
        if sample.generations:
            texts = {"reference": sample.reference} | sample.generations
            print_table(sample.prompt.strip(), (), [(name, text.strip()) for name, text in texts.items()])
