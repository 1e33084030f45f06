"""`vocabridge eval`: what the bridge is worth beside all else that can be made of the same models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from vocabridge.cli._errors import end_stopped
from vocabridge.cli._evaluations import print_evaluation
from vocabridge.cli._options import (
    A_VALUE_NETWORK,
    AlignmentFile,
    CombinationFile,
    Dtype,
    DtypeName,
    Untuned,
    in_existing_folder,
    number,
    output_file,
)
from vocabridge.cli._output import Json, is_first_process, shared_progress
from vocabridge.options import BoundaryPolicy, Contender
from vocabridge.utils.ranges import COUNT, COUNT_OR_NONE, STRENGTH, TOLERANCES

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


def kinds(names: str | None) -> list[Contender] | None:
    """Read `--contenders`."""
    if names is None:
        return None
    known = [kind.value for kind in Contender]
    for name in names.split(","):
        if name.strip() not in known:
            raise typer.BadParameter(f"There is no contender {name.strip()!r}; choose among {', '.join(known)}.")
    return [Contender(name.strip()) for name in names.split(",")]


def strengths(alphas: list[float] | None) -> list[float] | None:
    """Refuse a strength that is no number."""
    for alpha in alphas or ():
        if alpha not in STRENGTH:
            raise typer.BadParameter(f"{alpha} is no strength; give {STRENGTH}.")
    return alphas


def items(source: str | None) -> str | None:
    """Refuse a file that is not there."""
    if source is None or source.startswith("reasoning-gym:"):
        return source
    if not Path(source).exists() or Path(source).is_dir():
        raise typer.BadParameter(f"File '{source}' does not exist.")
    return source


def template(text: str) -> str:
    """Read a template: a backslash and n are a line break."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def evaluate(  # Long because each option is a parameter, with its help
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE|reasoning-gym:NAME[:SEED[:SIZE]]",
            callback=items,
            help="JSONL of items to test on, or a task.",
        ),
    ],
    base: Annotated[str | None, typer.Option(help="The base model: packaged, hub id, folder or .gguf file.")] = None,
    value: Annotated[
        str | None,
        typer.Option(
            help=f"What steers: {A_VALUE_NETWORK}; with --untuned, the tuned small model, or a PEFT adapter of it."
        ),
    ] = None,
    untuned: Untuned = None,
    alignment: AlignmentFile = None,
    bridge: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            metavar="FOLDER",
            help="A bridge that `vocabridge bridge` wrote, as it is, in place of --base, --value and all settings.",
        ),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|...", callback=items, help="Items on which weights, policy, alpha and threshold are chosen."
        ),
    ] = None,
    combination: CombinationFile = None,
    policy: Annotated[
        list[BoundaryPolicy] | None,
        typer.Option(help="Of the bridge; may be repeated, then the best on the validation items is taken."),
    ] = None,
    alpha: Annotated[
        list[float] | None,
        typer.Option(
            metavar="A",
            callback=strengths,
            help="Strength of the bridge; may be repeated, then the best on the validation items is taken.",
            show_default="1",
        ),
    ] = None,
    ceiling: Annotated[
        str | None, typer.Option(help="The base model fine-tuned itself, by name, or a value network trained on it.")
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="A value network with the base's own vocabulary, to see what projecting costs.")
    ] = None,
    contenders: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME...]",
            callback=kinds,
            help=f"Which to compare: {', '.join(kind.value for kind in Contender)}. By default all that can "
            "be made, without byte-level, which is slow.",
        ),
    ] = None,
    byte_level: Annotated[
        bool,
        typer.Option(
            "--byte-level",
            help="The bridge over bytes, too (byte-level), beside base and bridge or those that are named.",
        ),
    ] = False,
    prompt: Annotated[
        str, typer.Option(callback=template, help="How a line's fields make a prompt; \\n is a line break.")
    ] = "{prompt}",
    response: Annotated[str, typer.Option(callback=template, help="And the response.")] = "{response}",
    extract: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="What finds the final answer in a text: its first group, or all of it.",
            show_default="the number after ####, else the last number",
        ),
    ] = None,
    limit: Annotated[int | None, number(COUNT, "Take only so many items.")] = None,
    answers: Annotated[int | None, number(COUNT_OR_NONE, "Ask for the answers of only so many items.")] = None,
    max_new_tokens: Annotated[int, number(COUNT, "The longest answer.")] = 96,
    tolerance: Annotated[
        float | None,
        number(
            TOLERANCES, "Of byte-level: the share of each model's mass that may be left out at a byte; 1e-6 if not set."
        ),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Folder for results as they come; the same command goes on with what is there."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        output_file("Write the report here, JSON; `bridge --combination` reads the fitted weights from it."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, callback=in_existing_folder, help="Write the report here, one HTML page with plots."
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="Where the models go: cpu, cuda:0, ...")] = "cpu",
    dtype: Dtype = DtypeName.bfloat16,
    json: Json = False,
) -> None:
    """Measure what the bridge is worth.

    Bits per byte of the responses, right answers, right choices, time and memory: for the base, the donor alone, the
    bridge, a plain mixture of their probabilities, nudging, proxy-tuning's sum, and where given a ceiling and a
    control. What is fitted or chosen is so on the validation items, never on the test items.
    """
    from vocabridge.alignment.errors import Effect, refuse_idle

    if bridge is None and (base is None or value is None):
        raise typer.BadParameter("Give --base and --value, or a bridge that has both: --bridge.", param_hint="--base")
    beside = {
        "--base": base,
        "--value": value,
        "--untuned": untuned,
        "--alignment": alignment,
        "--combination": combination,
        "--policy": policy,
        "--alpha": alpha,
    }
    if bridge is not None and (given := [name for name, one in beside.items() if one]):
        raise typer.BadParameter(f"A bridge has its own; leave out {', '.join(given)}.", param_hint="--bridge")
    compared = cast("list[Contender] | None", contenders)  # what the callback made of it
    if byte_level:
        compared = list(dict.fromkeys([*(compared or (Contender.BASE, Contender.BRIDGE)), Contender.BYTE_LEVEL]))
    advice = "Only the contender byte-level has a tolerance; add --byte-level"
    refuse_idle(Effect("tolerance", tolerance is not None, Contender.BYTE_LEVEL in (compared or ()), advice))
    import torch

    from vocabridge.byte_level.byte_lm import TOLERANCE
    from vocabridge.evaluation.answers import Extractor
    from vocabridge.evaluation.evaluate import evaluate as measure
    from vocabridge.evaluation.html_report import write_report
    from vocabridge.evaluation.tasks import Template
    from vocabridge.utils.html import new_figure

    if html is not None:
        new_figure(1, 1)  # without matplotlib there is no page: that is said before the work
    with shared_progress(f"evaluating {bridge or base}") as tell:
        try:
            report = measure(
                data,
                base=base,
                value=value,
                untuned=untuned,
                alignment=alignment,
                bridge=bridge,
                validation=validation,
                combination=combination,
                policies=policy or (BoundaryPolicy.LOOKAHEAD,),
                alphas=alpha or (1.0,),
                tolerance=TOLERANCE if tolerance is None else tolerance,
                ceiling=ceiling,
                control=control,
                contenders=compared,
                template=Template(prompt, response, Extractor(extract)),
                limit=limit,
                answers=answers,
                max_new_tokens=max_new_tokens,
                records=records,
                device=device,
                dtype=getattr(torch, dtype.value),
                progress=tell,
            )
        except KeyboardInterrupt as stop:
            kept = "nothing is kept without --records" if records is None else "the same command goes on from here"
            end_stopped(stop, kept)
    if not is_first_process():
        return
    if output is not None:
        report.save(output)
    if html is not None:
        write_report(report, html)
    print_evaluation(report, json=json)
