"""`vocabridge train`: a small base and (prompt, response) JSONL to a value network."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vocabridge.cli.options import output_folder
from vocabridge.cli.output import Json, count, print_facts, print_json, progress

EXAMPLES = """\b
Examples:
  vocabridge train train.jsonl -o my-values --base smollm2-135m-instruct
  vocabridge train train.jsonl -o my-values --base ./small --validation validation.jsonl --epochs 3
  vocabridge train train.jsonl -o my-values --base ./small --method full --learning-rate 1e-4 --json
"""


class Method(str, Enum):
    """What is trained."""

    lora = "lora"
    full = "full"


def train(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            exists=True,
            dir_okay=False,
            help='JSONL, each line {"prompt": ..., "response": ...}.',
            show_default=False,
        ),
    ],
    output: Annotated[Path, output_folder("Folder to write the value network to.")],
    base: Annotated[str, typer.Option(help="The small model: packaged, hub id, folder or .gguf file.")],
    validation: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="JSONL to report the loss on, before and after."),
    ] = None,
    method: Annotated[Method, typer.Option(help="An adapter of a few MB, or every weight.")] = Method.lora,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine schedule.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples a step.")] = 8,
    rank: Annotated[int, typer.Option(min=1, help="The adapter's rank.")] = 8,
    norm_weight: Annotated[float, typer.Option(min=0.0, help="Weight of the mean size of the change of logits.")] = 0.1,
    max_length: Annotated[
        int, typer.Option(min=2, help="Longest example, in tokens; a longer one is an error.")
    ] = 1024,
    seed: Annotated[int, typer.Option(min=0, help="Of the order and the initialisation.")] = 0,
    json: Json = False,
) -> None:
    """Train a value network.

    It learns from the responses in DATA what to add to the base's logits; the base's own weights stay as they
    are.
    """
    from vocabridge.training import Recipe, train_value_network

    recipe = Recipe(
        base=base,
        method=method.value,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        rank=rank,
        norm_weight=norm_weight,
        max_length=max_length,
        seed=seed,
    )
    with progress(f"training a value network for {base}") as tell:
        result = train_value_network(recipe, data, output, validation=validation, progress=tell)
    if json:
        print_json(result)
        return
    facts: dict[str, object] = {
        "examples": count(result.examples),
        "steps": count(result.steps),
        "loss, nats a token, each epoch": "  ".join(f"{loss:.3f}" for loss in result.losses),
        "size of the change, each epoch": "  ".join(f"{norm:.3f}" for norm in result.norms),
    }
    if result.validation_before is not None and result.validation_after is not None:
        facts["validation, bits a token"] = f"{result.validation_before:.3f} -> {result.validation_after:.3f}"
    print_facts(f"value network in {result.folder}", facts | {"time": f"{result.seconds:.0f} s"})
