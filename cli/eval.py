"""`vocabridge eval`: compare a bridge with everything else that can be made of the same models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vocabridge.cli._config_options import options_of
from vocabridge.cli._errors import end_stopped
from vocabridge.cli._evaluations import print_evaluation
from vocabridge.cli._options import in_existing_folder, output_file
from vocabridge.cli._output import Json, is_first_process, shared_progress
from vocabridge.data import VALUE_NETWORKS
from vocabridge.evaluation.config import EvaluationConfig
from vocabridge.options import Contender

EXAMPLES = """\b
Examples:
  vocabridge eval --base gemma-3-270m --value my-values --data test.jsonl --validation validation.jsonl
      --records my-run --html report.html
  vocabridge eval --base gemma-3-270m --value my-values --data test.jsonl --contenders base,donor,bridge --json
  vocabridge eval --bridge my-bridge --data test.jsonl --byte-level --limit 20
  vocabridge eval --base gemma-3-270m --value my-values --data test.jsonl --validation validation.jsonl
      --combination report.json --alpha 0.5 --alpha 0.75 --alpha 1
  vocabridge eval --base gemma-3-270m --value my-values --data gsm8k-test.jsonl --validation gsm8k-validation.jsonl
      --prompt 'Question: {question}\\nAnswer:' --response ' {answer}' --extract '#### (.*)'
  vocabridge eval --base ./big --value ./small-chat --untuned ./small --data reasoning-gym:leg_counting:1:50
  torchrun --nproc-per-node 2 --no-python
      vocabridge eval --base gemma-3-270m --value my-values --data test.jsonl --records my-run
"""


def named_contenders(names: str | None) -> list[Contender] | None:
    """Parse `--contenders`."""
    if names is None:
        return None
    known = [contender.value for contender in Contender]
    for name in names.split(","):
        if name.strip() not in known:
            raise typer.BadParameter(f"There is no contender {name.strip()!r}; choose among {', '.join(known)}.")
    return [Contender(name.strip()) for name in names.split(",")]


def items(source: str | None) -> str | None:
    """Refuse a missing file."""
    if source is None or source.startswith("reasoning-gym:"):
        return source
    if not Path(source).exists() or Path(source).is_dir():
        raise typer.BadParameter(f"File '{source}' does not exist.")
    return source


def template(text: str) -> str:
    r"""Replace \n and \t in a template by a line break and a tab."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


@options_of(
    EvaluationConfig,
    data={"type": str, "metavar": "FILE|reasoning-gym:NAME[:SEED[:SIZE]]", "callback": items},
    value={"suffix": f"Packaged: {', '.join(VALUE_NETWORKS)}."},
    alignment={"exists": True, "dir_okay": False},
    bridge={"exists": True, "file_okay": False, "metavar": "FOLDER"},
    validation={"type": str, "metavar": "FILE|...", "callback": items},
    combination={"exists": True, "dir_okay": False},
    policies={"name": "policy"},
    alphas={"name": "alpha", "metavar": "A"},
    contenders={
        "type": str,
        "metavar": "NAME[,NAME...]",
        "callback": named_contenders,
        "suffix": f"Contenders: {', '.join(contender.value for contender in Contender)}.",
    },
    prompt={"callback": template, "suffix": "\\n is a line break."},
    response={"callback": template, "suffix": "\\n is a line break."},
    extract={"metavar": "REGEX"},
)
def evaluate(
    config: EvaluationConfig,
    byte_level: Annotated[
        bool,
        typer.Option(
            "--byte-level",
            help="Add the contender byte-level to those that are named, or else to base and bridge.",
        ),
    ] = False,
    records: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder to which results are written at once; the same command continues an interrupted evaluation.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        output_file("Write the report to this file, as JSON; `bridge --combination` reads the fitted weights from it."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, callback=in_existing_folder, help="Write the report to this file, an HTML page with plots."
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="Device of the models: cpu, cuda:0, ...")] = "cpu",
    json: Json = False,
) -> None:
    """Measure what a bridge is worth.

    Compares the bridge with the base, the donor alone, a plain mixture of both, nudging, proxy-tuning and, if given, a
    ceiling and a control: by bits per byte of the responses, right answers, right choices, time and memory. Settings
    are fitted and chosen on the validation items, never on the test items.
    """
    if byte_level:
        contenders = (*(config.contenders or (Contender.BASE, Contender.BRIDGE)), Contender.BYTE_LEVEL)
        config = replace(config, contenders=tuple(dict.fromkeys(contenders)))
    from vocabridge.evaluation.evaluate import evaluate as measure
    from vocabridge.evaluation.html_report import write_report
    from vocabridge.utils.html import new_figure

    if html is not None:
        new_figure(1, 1)  # raises an error without matplotlib, before the work starts
    with shared_progress(f"evaluating {config.bridge or config.base}") as update:
        try:
            report = measure(config, records=records, device=device, progress=update)
        except KeyboardInterrupt as stop:
            kept = "nothing is kept without --records" if records is None else "the same command continues from here"
            end_stopped(stop, kept)
    if not is_first_process():
        return
    if output is not None:
        report.save(output)
    if html is not None:
        write_report(report, html)
    print_evaluation(report, json=json)
