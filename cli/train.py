"""`vocabridge train`: train a value network from a source model and texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vocabridge.cli._config_options import options_of
from vocabridge.cli._errors import end_stopped
from vocabridge.cli._options import output_folder
from vocabridge.cli._output import Json, count, is_first_process, print_facts, print_json, shared_progress
from vocabridge.training.config import TrainingConfig
from vocabridge.utils.ranges import HELD_OUT

EXAMPLES = """\b
Examples:
  vocabridge train data/gsm_symbolic/train.jsonl -o my-values --source smollm2-135m-instruct
  vocabridge train data/gsm_symbolic/train.jsonl -o my-cascade --source smollm2-135m-instruct --scheme cascade+
      --validation 0.1 --epochs 5 --patience 1
  torchrun --nproc-per-node 2 --no-python
      vocabridge train data/gsm_symbolic/train.jsonl -o my-layers --source smollm2-135m-instruct --layers 8
"""


def texts(path: str) -> str:
    """Refuse a missing file or folder; a data set of the hub is checked when it is loaded."""
    if not path.startswith("hf:") and not Path(path).exists():
        raise typer.BadParameter(f"Path '{path}' does not exist.")
    return path


def texts_or_share(value: str | None) -> str | float | None:
    """Parse `--validation`: a share of the data, or other texts."""
    try:
        share = None if value is None else float(value)
    except ValueError:
        return texts(str(value))
    if share is not None and share not in HELD_OUT:
        raise typer.BadParameter(f"{value} is not a share of the data; give {HELD_OUT}, or other texts.")
    return share


@options_of(TrainingConfig, other_bases={"name": "other_base"})
def train(
    config: TrainingConfig,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            callback=texts,
            help='JSONL file with "prompt" and "response", "messages" or "text" in each line; a folder of such files; '
            "or hf:OWNER/NAME[:CONFIG]/SPLIT.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path, output_folder("Folder to write the value network to; the folder of a stopped training is continued.")
    ],
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="DATA|SHARE",
            callback=texts_or_share,
            help="Texts on which the loss is reported after each epoch, or a share of DATA, such as 0.1.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="Device: cpu, or cuda, which gives each process its own GPU.")
    ] = "cpu",
    json: Json = False,
) -> None:
    """Train a value network.

    The value network learns from DATA what to add to the logits of the source model, whose weights do not change.
    Ctrl-C or SIGTERM saves a checkpoint, from which the same command continues.
    """
    from vocabridge.training.train import train_value_network

    with shared_progress(f"training a value network for {config.source}") as update:
        try:
            result = train_value_network(config, data, output, validation=validation, device=device, progress=update)
        except KeyboardInterrupt as stop:
            end_stopped(stop, *map(str, stop.args))
    if not is_first_process():
        return
    if json:
        print_json(result)
        return
    facts: dict[str, object] = {
        "texts": count(result.examples),
        "steps": count(result.steps) + (f", resumed at step {result.resumed}" if result.resumed else ""),
        "loss by epoch, nats a token": "  ".join(f"{loss:.3f}" for loss in result.losses),
        "size of the change by epoch": "  ".join(f"{norm:.3f}" for norm in result.norms),
        "changed tokens by epoch": "  ".join(f"{share:.1%}" for share in result.changed),
    }
    if result.validation_before is not None and result.validation_after is not None:
        facts["validation, bits a token"] = f"{result.validation_before:.3f} -> {result.validation_after:.3f}"
    print_facts(f"value network in {result.folder}", facts | {"time": f"{result.seconds:.0f} s"})
