"""`vocabridge train`: a source model and texts to learn from to a value network."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vocabridge.cli._errors import end_stopped
from vocabridge.cli._options import number, output_folder
from vocabridge.cli._output import Json, count, is_first_process, print_facts, print_json, shared_progress
from vocabridge.options import Initialization, Regularizer, Scheme
from vocabridge.utils.ranges import COUNT, HELD_OUT, LEARNING_RATE, RANK, SEED, TEXT_LENGTH, WEIGHT

EXAMPLES = """\b
Examples:
  vocabridge train data/gsm_symbolic/train.jsonl -o my-values --source smollm2-135m-instruct
  vocabridge train data/gsm_symbolic/train.jsonl -o my-cascade --source smollm2-135m-instruct --scheme cascade+
      --validation 0.1 --epochs 5 --patience 1
  torchrun --nproc-per-node 2 --no-python
      vocabridge train data/gsm_symbolic/train.jsonl -o my-layers --source smollm2-135m-instruct --layers 8
"""


class Method(str, Enum):
    """What is trained."""

    full = "full"
    lora = "lora"


class Precision(str, Enum):
    """What training computes in."""

    bfloat16 = "bfloat16"
    float32 = "float32"


def texts(path: str) -> str:
    """Refuse a file or folder that is not there; a data set of the hub is looked for later."""
    if not path.startswith("hf:") and not Path(path).exists():
        raise typer.BadParameter(f"Path '{path}' does not exist.")
    return path


def texts_or_share(value: str | None) -> str | float | None:
    """Read `--validation`: a share of the data, or other texts."""
    try:
        share = None if value is None else float(value)
    except ValueError:
        return texts(str(value))
    if share is not None and share not in HELD_OUT:
        raise typer.BadParameter(f"{value} is no share of the data; give {HELD_OUT}, or other texts.")
    return share


def train(  # Long because each option is a parameter, with its help
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            callback=texts,
            help='JSONL with "prompt" and "response", "messages" or "text" a line; a folder of such files; or '
            "hf:OWNER/NAME/SPLIT.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, output_folder("Folder to write the value network to; one of a stopped run goes on.")],
    source: Annotated[
        str, typer.Option(help="The small model, which stays as it is: packaged, hub id, folder or .gguf file.")
    ],
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="DATA|SHARE",
            callback=texts_or_share,
            help="Texts to report the loss on, after each epoch; 0.1: that share of DATA.",
        ),
    ] = None,
    method: Annotated[Method, typer.Option(help="Every weight, or an adapter of a few MB.")] = Method.full,
    other_base: Annotated[
        list[str] | None,
        typer.Option(help="One more model to train on, in turn, of any tokenizer; may be given several times."),
    ] = None,
    scheme: Annotated[
        Scheme, typer.Option(help="What it reads: the tokens, what the source model expects next, or both (cascade+).")
    ] = Scheme.RESIDUAL,
    layers: Annotated[
        int | None, number(COUNT, "Only the first so many layers of the source model.", show_default="all")
    ] = None,
    initialization: Annotated[
        Initialization, typer.Option(help="Start from the source model's weights, or from random ones.")
    ] = Initialization.PRETRAINED,
    epochs: Annotated[int, number(COUNT, "Passes over the data.")] = 1,
    learning_rate: Annotated[
        float | None,
        number(LEARNING_RATE, "Peak of the cosine schedule.", show_default="0.0003; of an adapter 0.001"),
    ] = None,
    batch_size: Annotated[int, number(COUNT, "Texts a step, over all processes and parts.")] = 8,
    rank: Annotated[int, number(RANK, "The adapter's rank.")] = 8,
    regularizer: Annotated[
        Regularizer,
        typer.Option(
            help="What holds the change of logits back: its size at learned tokens, or at all as in the paper's code."
        ),
    ] = Regularizer.L1,
    regularizer_weight: Annotated[float, number(WEIGHT, "Its weight; `released` has its own.")] = 0.1,
    max_length: Annotated[int, number(TEXT_LENGTH, "Longest text, in tokens; a longer one is an error.")] = 1024,
    packing: Annotated[
        bool, typer.Option("--packing", help="Put several texts in one sequence of that length.")
    ] = False,
    dtype: Annotated[Precision, typer.Option(help="What to compute in.")] = Precision.bfloat16,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Compute activations twice, to save memory.")
    ] = False,
    gradient_accumulation: Annotated[int, number(COUNT, "Do a step in so many parts, to save memory.")] = 1,
    patience: Annotated[
        int | None,
        number(COUNT, "Stop after so many epochs without better validation; keep the best weights."),
    ] = None,
    seed: Annotated[int, number(SEED, "Of the order and the initialization.")] = 0,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, or cuda: a device for each process.")] = "cpu",
    json: Json = False,
) -> None:
    """Train a value network.

    It learns from DATA what to add to the source model's logits, whose weights stay as they are. Ctrl-C or
    SIGTERM saves a checkpoint; the same command goes on from the last one.
    """
    from vocabridge.training.config import LEARNING_RATES, TrainingConfig
    from vocabridge.training.train import train_value_network

    config = TrainingConfig(
        source=source,
        method=method.value,
        other_bases=tuple(other_base or ()),
        scheme=scheme,
        layers=layers,
        initialization=initialization,
        epochs=epochs,
        learning_rate=LEARNING_RATES[method.value] if learning_rate is None else learning_rate,
        batch_size=batch_size,
        rank=rank,
        regularizer=regularizer,
        regularizer_weight=regularizer_weight,
        max_length=max_length,
        packing=packing,
        dtype=dtype.value,
        gradient_checkpointing=gradient_checkpointing,
        gradient_accumulation=gradient_accumulation,
        patience=patience,
        seed=seed,
    )
    with shared_progress(f"training a value network for {source}") as tell:
        try:
            result = train_value_network(config, data, output, validation=validation, device=device, progress=tell)
        except KeyboardInterrupt as stop:
            end_stopped(stop, *map(str, stop.args))
    if not is_first_process():
        return
    if json:
        print_json(result)
        return
    facts: dict[str, object] = {
        "texts": count(result.examples),
        "steps": count(result.steps) + (f", from step {result.resumed} on" if result.resumed else ""),
        "loss, nats a token, each epoch": "  ".join(f"{loss:.3f}" for loss in result.losses),
        "size of the change, each epoch": "  ".join(f"{norm:.3f}" for norm in result.norms),
        "tokens changed, each epoch": "  ".join(f"{share:.1%}" for share in result.changed),
    }
    if result.validation_before is not None and result.validation_after is not None:
        facts["validation, bits a token"] = f"{result.validation_before:.3f} -> {result.validation_after:.3f}"
    print_facts(f"value network in {result.folder}", facts | {"time": f"{result.seconds:.0f} s"})
