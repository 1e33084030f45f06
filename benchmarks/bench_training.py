"""What training a value network costs, beside its parts: a fine-tuning of the same small model, and its base's forward.

    python benchmarks/bench_training.py [--source smollm2-135m-instruct] [--steps 8] [--batch-size 8] [--json FILE]

All three see the same batches of the sample task, in turn, twice: the value network as `vocabridge train` trains
it; transformers' Trainer as it comes, on the same model with the same adapter; one forward of the base. The figure is
the value network's tokens a second over those of the other two together (at 1 it costs what they cost). The first step
of a turn is not counted. Memory is the most that the process held in each, all models loaded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from memory import held
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging

from vocabridge.data import task_file
from vocabridge.models.value_network import new_value_network
from vocabridge.options import Regularizer
from vocabridge.training.collator import LengthGroupedSampler, collate
from vocabridge.training.dataset import TrainingText, load_training_texts
from vocabridge.training.objective import TrainingObjective
from vocabridge.training.trainer import ValueTrainer

ROUNDS = 2


class Clock(TrainerCallback):
    """Measure the seconds of each step but the first."""

    def __init__(self) -> None:
        """Start without measurements."""
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._begun = perf_counter()

    def on_step_end(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
        """Record the time of the step."""
        if state.global_step > 1:
            self.seconds.append(perf_counter() - self._begun)


class Plain(Trainer):
    """transformers' Trainer, which is given the same batches."""

    def __init__(self, batches: DataLoader[Any], **arguments: Any) -> None:
        """Train on these batches."""
        super().__init__(**arguments)
        self.remove_callback(PrinterCallback)
        self._batches = batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the same batches."""
        return self.accelerator.prepare(self._batches)


def batches(texts: Sequence[TrainingText], size: int) -> DataLoader[Any]:
    """Return the batches that `ValueTrainer` makes of texts in its first epoch."""
    order = LengthGroupedSampler([len(text.ids) for text in texts], size, 0, lambda: 0)
    return DataLoader(texts, size, sampler=order, collate_fn=collate)  # type: ignore[arg-type]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="smollm2-135m-instruct")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    network, other = (new_value_network(arguments.source, method="lora", rank=arguments.rank) for _ in range(2))
    plain = other.value.model
    for model in (network.value.model, plain):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
    texts = load_training_texts(task_file("train"), network.vocabulary, max_length=1024)
    texts = texts[: arguments.steps * arguments.batch_size]
    loader = batches(texts, arguments.batch_size)
    sizes = [int((batch["labels"] != -100).sum()) for batch in loader][1:]
    clocks = {name: Clock() for name in ("value network", "plain fine-tuning")}

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=arguments.batch_size,
            num_train_epochs=1,
            learning_rate=1e-3,
            use_cpu=not torch.cuda.is_available(),
            seed=0,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        ours = ValueTrainer(
            TrainingObjective(network, Regularizer.L1),
            settings,
            texts,
            [],
            regularizer_weight=0.1,
            run={},
            callbacks=[clocks["value network"]],
        )
        usual = Plain(loader, model=plain, args=settings, callbacks=[clocks["plain fine-tuning"]])
        forward: list[float] = []

        @torch.no_grad()
        def read() -> None:
            for number, batch in enumerate(loader):
                begun = perf_counter()
                network.source_model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
                forward.extend([perf_counter() - begun] if number else [])

        turns = {"value network": ours.train, "plain fine-tuning": usual.train, "the base's forward": read}
        memory = dict.fromkeys(turns, 0.0)
        for _ in range(ROUNDS):
            for name, work in turns.items():
                memory[name] = max(memory[name], held(work))
    seconds = {name: sum(clock.seconds) for name, clock in clocks.items()} | {"the base's forward": sum(forward)}
    tokens = ROUNDS * sum(sizes)
    ratio = (seconds["plain fine-tuning"] + seconds["the base's forward"]) / seconds["value network"]
    table = Table("what", "seconds", "learned tokens a second", "peak MB")
    for name, taken in seconds.items():
        table.add_row(name, f"{taken:.1f}", f"{tokens / taken:.0f}", f"{memory[name]:.0f}")
    console = Console(width=110)
    console.print(table)
    console.print(f"tokens a second over those of the other two together: {ratio:.2f}")
    if arguments.json:
        found = {"seconds": seconds, "tokens": tokens, "ratio": ratio, "peak_megabytes": memory}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
