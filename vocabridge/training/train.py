"""Trains a value network: z_post = z_base + z_delta with the source model frozen.

    loss = mean over learned tokens of  -log softmax(z_base + z_delta)[token]  +  weight * regularizer

over its own source model or several bases (`bases`), by AdamW, a cosine schedule and gradients clipped at 1. Source:
Lu et al., arXiv 2410.21027; `objective` says how the released code differs. Checkpoints are in `checkpoints/` of the
output folder until the network is written there at the end; the same call takes up the last one. Under a launcher of
several processes (`torchrun`, `accelerate launch`) each has its share of every step, and the first one writes.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.alignment.files import LOCK, locked_folder
from vocabridge.models.loading import check_model, find_device
from vocabridge.models.reference import Reference
from vocabridge.models.value_network import ValueNetwork, new_value_network, save_value_network
from vocabridge.training.bases import TrainingBase, beside, load_others
from vocabridge.training.callbacks import PLOT, TrainingLog, by_epoch, plot, points, thinned
from vocabridge.training.config import TrainingConfig, refuse_idle_settings
from vocabridge.training.dataset import TrainingText, load_training_texts, pack, split
from vocabridge.training.model_card import command, identity, named, versions, write_card
from vocabridge.training.objective import TrainingObjective
from vocabridge.training.run_folder import CHECKPOINTS, check_folder, last_checkpoint
from vocabridge.training.stopping import Stopping
from vocabridge.training.trainer import UNFINISHED, ValueTrainer, validations
from vocabridge.utils.jsonl import read_records
from vocabridge.utils.progress import Progress, no_progress

_SAVES = 10
"""Checkpoints a run, beside one after every epoch."""


@dataclass(frozen=True)
class TrainingResult:
    """What training did.

    Attributes:
        folder: Where the value network is.
        examples: Number of texts trained on.
        steps: Number of optimizer steps.
        resumed: The step of the checkpoint that was taken up; 0 for a new run.
        losses: Mean cross-entropy a learned token in nats, one an epoch.
        norms: Mean |z_delta|_1 / |V| at learned tokens, one an epoch.
        changed: Share of learned tokens at which the likeliest token is another than the base's, one an epoch.
        validation_before: Bits per learned token of all bases on the validation texts; None without any.
        validation_after: The same with the value network.
        seconds: Wall time, from the checkpoint on if one was taken up.
    """

    folder: str
    examples: int
    steps: int
    resumed: int
    losses: list[float]
    norms: list[float]
    changed: list[float]
    validation_before: float | None
    validation_after: float | None
    seconds: float


def train_value_network(
    config: TrainingConfig,
    data: str | Path,
    output: Path,
    *,
    validation: str | Path | float | None = None,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> TrainingResult:
    """Trains a value network and writes it to a folder, or goes on where this run was stopped.

    The folder then has `value_network.safetensors` and `.json`, `README.md`, `training_log.jsonl`, `curves.png` and
    `checkpoints/`. Ctrl-C (SIGINT) and SIGTERM save a checkpoint at the end of the step.

    Args:
        config: How.
        data: Training texts, as `load_training_texts` takes them.
        output: The folder for the value network, which is written once, at the end.
        validation: Texts to report the loss on, before and after every epoch; or about what share of `data` to hold
            out for that.
        device: "cpu", or "cuda" for the device of each process.
        progress: Told of every step, in the first process.

    Raises:
        VocabridgeError: The data or the model cannot be read, a text is too long, the loss is not finite, a checkpoint
            cannot be written, another process trains in the folder, or it holds something else: a value network, or
            checkpoints of another run.
        KeyboardInterrupt: At Ctrl-C, or `Terminated` at SIGTERM; its message says what is saved.
    """
    check_folder(output)
    refuse_idle_settings(config, validation)
    find_device(device)
    for name in (config.source, *config.other_bases):
        check_model(name)
    for texts in (data, validation):
        if isinstance(texts, (str, Path)):
            read_records(texts)  # before a model is loaded, which may take minutes
    arguments = _arguments(config, output, device)
    with locked_folder(output) if arguments.process_index == 0 else nullcontext():
        shutil.rmtree(output / CHECKPOINTS / UNFINISHED, ignore_errors=True)
        return _train(config, data, output, validation, arguments, progress)


def _train(
    config: TrainingConfig,
    data: str | Path,
    output: Path,
    validation: str | Path | float | None,
    arguments: TrainingArguments,
    progress: Progress,
) -> TrainingResult:
    """Trains, in a folder where nobody else does."""
    started = time.monotonic()
    torch.manual_seed(config.seed)
    network = _new_network(config, str(arguments.device))
    others = load_others(config.other_bases, network.vocabulary, str(arguments.device))
    texts, held_out = _texts(config, data, validation, network, others)
    made_of = {
        "source": Reference.of(network.source_model, network.config.fingerprint).as_dict(output),
        "other_bases": [Reference.of(one.model, one.vocabulary.fingerprint).as_dict(output) for one in others],
        "data": named(data),
        "validation": named(validation),
    }
    run = _plain(config.as_dict()) | {name: identity(given) for name, given in made_of.items()}
    checkpoint = last_checkpoint(output, run)

    sequences = pack(texts, config.max_length) if config.packing else texts
    each = math.ceil(len(sequences) / config.batch_size)
    steps = each * config.epochs
    _schedule(arguments, each, steps, evaluate=bool(held_out), start=checkpoint is None)
    stopping = Stopping(config.patience)
    trainer = ValueTrainer(
        TrainingObjective(network, config.regularizer, others),
        arguments,
        sequences,
        held_out,
        weight=config.regularizer_weight,
        run=run,
        callbacks=[TrainingLog(output, progress), stopping],
    )
    _run(trainer, stopping, checkpoint, steps, output, best=config.patience is not None)

    result = TrainingResult(
        folder=str(output),
        examples=len(texts),
        steps=trainer.state.global_step,
        resumed=int(Path(checkpoint).name.rpartition("-")[2]) if checkpoint else 0,
        seconds=time.monotonic() - started,
        **_measured(trainer, each, best=config.patience is not None),
    )
    record = {
        "config": _plain(config.as_dict()),
        **made_of,
        "command": command(),
        "processes": arguments.world_size,
        "versions": versions(),
        **{name: value for name, value in asdict(result).items() if name != "folder"},
        "curves": thinned(points(trainer.state.log_history)),
    }
    _save(trainer, network, config, output, record)
    return result


def _run(
    trainer: ValueTrainer, stopping: Stopping, checkpoint: str | None, steps: int, output: Path, *, best: bool
) -> None:
    """Run so many steps, from a checkpoint on if there is one; with `best`, go back to the best weights then.

    Raises:
        KeyboardInterrupt: At Ctrl-C, or `Terminated` at SIGTERM.
    """
    with stopping.at_signals():
        trainer.train(resume_from_checkpoint=checkpoint)
    if stopping.signal and trainer.state.global_step < steps:
        raise stopping.error(
            f"step {trainer.state.global_step} of {steps} is saved in {output / CHECKPOINTS}; start the same run again "
            "to go on"
        )
    if best:
        trainer.load_best()


def _save(
    trainer: ValueTrainer, network: ValueNetwork, config: TrainingConfig, output: Path, record: Mapping[str, Any]
) -> None:
    """Write what was trained to its folder, in the first process; the others wait."""
    state = trainer.trained()
    if trainer.is_world_process_zero():
        if trainer.is_fsdp_enabled:  # the parts that are here do not make a network
            network = _new_network(config, "cpu")
            TrainingObjective(network, config.regularizer).load_state_dict(state, strict=False)
        plot(points(trainer.state.log_history), output / PLOT)
        write_card(output, network.config, record)
        save_value_network(network, output, record)
        (output / LOCK).unlink()
    trainer.accelerator.wait_for_everyone()


def _measured(trainer: ValueTrainer, each: int, *, best: bool) -> dict[str, Any]:
    """Return what a run's log holds for a `TrainingResult`.

    Args:
        trainer: Has run.
        each: Steps an epoch.
        best: Whether the best weights are kept, not the last ones.
    """
    curve = points(trainer.state.log_history)
    before, after = _validation(trainer, best=best)
    return {
        "losses": by_epoch(curve, "nats", each),
        "norms": by_epoch(curve, "norm", each),
        "changed": by_epoch(curve, "changed", each),
        "validation_before": before,
        "validation_after": after,
    }


def _arguments(config: TrainingConfig, output: Path, device: str) -> TrainingArguments:
    """The Trainer's arguments; making them joins the other processes, if there are any."""
    arguments = TrainingArguments(
        output_dir=str(output / CHECKPOINTS),
        num_train_epochs=config.epochs,
        learning_rate=config.peak_learning_rate,
        weight_decay=0.01,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        max_grad_norm=1.0,
        gradient_accumulation_steps=config.gradient_accumulation,
        bf16=config.dtype == "bfloat16" and config.method == "full",  # an adapter's trunk is bf16 as it is
        use_cpu=torch.device(device).type == "cpu",
        ddp_find_unused_parameters=False,
        seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="tensorboard" if importlib.util.find_spec("tensorboard") else "none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one process, one device: never torch's DataParallel
    parts = arguments.world_size * config.gradient_accumulation
    if config.batch_size % parts:
        raise VocabridgeError(
            f"a batch of {config.batch_size} cannot be shared by {arguments.world_size} processes in "
            f"{config.gradient_accumulation} parts each; make it a multiple of {parts}"
        )
    arguments.per_device_train_batch_size = arguments.per_device_eval_batch_size = config.batch_size // parts
    return arguments


def _schedule(arguments: TrainingArguments, each: int, steps: int, *, evaluate: bool, start: bool) -> None:
    """Validation before the first step and after every epoch, and checkpoints then and now and then between."""
    arguments.save_strategy, arguments.save_steps = "steps", math.ceil(steps / _SAVES)
    if evaluate:
        arguments.eval_strategy, arguments.eval_steps, arguments.eval_on_start = "steps", each, start


def _new_network(config: TrainingConfig, device: str) -> ValueNetwork:
    """The network at its start; what is trained is float32, and needs gradients, and nothing else does."""
    network = new_value_network(
        config.source,
        method=config.method.value,
        rank=config.rank,
        scheme=config.scheme,
        layers=config.layers,
        initialization=config.initialization,
        device=device,
    )
    if config.dtype == "float32":
        network.float()
    if config.method == "full":
        network.value.float()
    network.source_model.requires_grad_(False)
    for name, parameter in network.value.model.named_parameters():
        parameter.requires_grad_(config.method == "full" or "lora_" in name)
    if config.gradient_checkpointing:
        model: Any = network.value.model  # whose method had another name in older versions of transformers
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    return network


def _validation(trainer: ValueTrainer, *, best: bool) -> tuple[float | None, float | None]:
    """Bits a learned token of the held-out texts, of the base and of the network that is kept."""
    before = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    after = validations(trainer.state.log_history)
    if not after:
        return None, None
    step = trainer.best_step if best else max(after)
    return before[0] / math.log(2), after[int(step or 0)] / math.log(2)


def _texts(
    config: TrainingConfig,
    data: str | Path,
    validation: str | Path | float | None,
    network: ValueNetwork,
    others: Sequence[TrainingBase],
) -> tuple[list[TrainingText], list[TrainingText]]:
    """The texts to train on and those to validate on."""
    across = [base for base in others if base.projection is not None]
    if across and config.packing:
        raise VocabridgeError(
            f"texts cannot be packed for {across[0].vocabulary.name}, which has another tokenizer; leave out packing"
        )

    def written(source: str | Path, vocabulary: Vocabulary, model: PreTrainedModel) -> list[TrainingText]:
        return load_training_texts(source, vocabulary, max_length=config.max_length, model=model)

    def load(source: str | Path) -> list[TrainingText]:
        texts = written(source, network.vocabulary, network.source_model)
        sides = [
            beside(texts, network.vocabulary, written(source, base.vocabulary, base.model), base.vocabulary)
            for base in across
        ]
        return [replace(text, sides=several) for text, *several in zip(texts, *sides, strict=True)] if sides else texts

    texts = load(data)
    if validation is None:
        return texts, []
    return split(texts, validation, config.seed) if isinstance(validation, float) else (texts, load(validation))


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as JSON gives them back."""
    return json.loads(json.dumps(fields))
