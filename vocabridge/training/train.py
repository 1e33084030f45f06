"""Training of a value network: z_post = z_source + z_delta with the source model frozen (Lu et al., arXiv 2410.21027).

    loss = mean over learned tokens of  -log softmax(z_base + z_delta)[token]  +  weight * regularizer

The loss is over the source model, or in turn over several bases (`bases`). `objective` describes how the loss of the
released code differs. The optimizer is AdamW with a cosine schedule and gradients clipped at 1.

Checkpoints are written to `checkpoints/` in the output folder, and the value network is written at the end. The same
call on the same folder resumes from the last checkpoint. Under a launcher of several processes (`torchrun`, `accelerate
launch`), each process computes a share of every step, and the first process writes the files.
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
from vocabridge.training.bases import TrainingBase, align_texts, load_other_bases
from vocabridge.training.callbacks import PLOT, TrainingLog, epoch_means, log_points, plot_curves, thin_curve
from vocabridge.training.config import TrainingConfig, refuse_idle_settings
from vocabridge.training.dataset import TrainingText, load_training_texts, pack, split
from vocabridge.training.model_card import command_line, describe_data, identity_of, package_versions, write_card
from vocabridge.training.objective import TrainingObjective
from vocabridge.training.run_folder import CHECKPOINTS, check_folder, last_checkpoint
from vocabridge.training.stopping import StoppingCallback
from vocabridge.training.trainer import UNFINISHED, ValueTrainer, validations
from vocabridge.utils.jsonl import read_records
from vocabridge.utils.progress import Progress, no_progress

_SAVES = 10
"""Checkpoints of a run, evenly spaced, in addition to those after each epoch with validation."""


@dataclass(frozen=True)
class TrainingResult:
    """The result of training.

    Attributes:
        folder: Folder of the value network.
        examples: Number of texts for training.
        steps: Number of optimizer steps.
        resumed: Step of the checkpoint from which the run was resumed; 0 for a new run.
        losses: For each epoch, the mean cross-entropy in nats per learned token.
        norms: For each epoch, the mean of |z_delta|_1 / |V| over the learned tokens.
        changed: For each epoch, the share of learned tokens at which the most likely token differs from the base's.
        validation_before: Cross-entropy of the bases alone on the validation texts, in bits per learned token, over
            all bases; None without validation texts.
        validation_after: The same with the value network.
        seconds: Wall time in seconds, without the time before the checkpoint in a resumed run.
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
    """Train a value network and write it to a folder, or resume a stopped run.

    At the end the folder holds `value_network.safetensors`, `value_network.json`, `README.md`, `training_log.jsonl`,
    `curves.png` and `checkpoints/`. Ctrl-C (SIGINT) and SIGTERM save a checkpoint at the end of the step.

    Args:
        config: Settings of the training.
        data: Training texts, as `load_training_texts` takes them.
        output: Folder for the value network, which is written only once, at the end.
        validation: Validation texts, whose loss is reported before the first epoch and after each; or the approximate
            share of `data` to hold out for validation.
        device: "cpu", or "cuda" for the GPU of each process.
        progress: Called after every step, in the first process.

    Raises:
        VocabridgeError: The data or a model cannot be read, a text is too long, the loss is not finite, a checkpoint
            cannot be written, another process trains in the folder, or the folder holds a value network, checkpoints
            of another run, or other files.
        KeyboardInterrupt: At Ctrl-C, or `Terminated` at SIGTERM; the message names the step that is saved.
    """
    check_folder(output)
    refuse_idle_settings(config, validation)
    find_device(device)
    for name in (config.source, *config.other_bases):
        check_model(name)
    for texts in (data, validation):
        if isinstance(texts, (str, Path)):
            read_records(texts)  # a bad file is an error before a model is loaded, which may take minutes
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
    """Train in a folder that this process has locked."""
    started = time.monotonic()
    torch.manual_seed(config.seed)
    network = _new_network(config, str(arguments.device))
    others = load_other_bases(config.other_bases, network.vocabulary, str(arguments.device))
    texts, held_out = _texts(config, data, validation, network, others)
    provenance = {
        "source": Reference.of(network.source_model, network.config.fingerprint).as_dict(output),
        "other_bases": [Reference.of(base.model, base.vocabulary.fingerprint).as_dict(output) for base in others],
        "data": describe_data(data),
        "validation": describe_data(validation),
    }
    run = _as_json(config.as_dict()) | {name: identity_of(entry) for name, entry in provenance.items()}
    checkpoint = last_checkpoint(output, run)

    sequences = pack(texts, config.max_length) if config.packing else texts
    epoch_steps = math.ceil(len(sequences) / config.batch_size)
    steps = epoch_steps * config.epochs
    _schedule(arguments, epoch_steps, steps, evaluate=bool(held_out), start=checkpoint is None)
    stopping = StoppingCallback(config.patience)
    trainer = ValueTrainer(
        TrainingObjective(network, config.regularizer, others),
        arguments,
        sequences,
        held_out,
        regularizer_weight=config.regularizer_weight,
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
        **_measurements(trainer, epoch_steps, best=config.patience is not None),
    )
    record = {
        "config": _as_json(config.as_dict()),
        **provenance,
        "command": command_line(),
        "processes": arguments.world_size,
        "versions": package_versions(),
        **{name: value for name, value in asdict(result).items() if name != "folder"},
        "curves": thin_curve(log_points(trainer.state.log_history)),
    }
    _save(trainer, network, config, output, record)
    return result


def _run(
    trainer: ValueTrainer, stopping: StoppingCallback, checkpoint: str | None, steps: int, output: Path, *, best: bool
) -> None:
    """Train for `steps` steps, from a checkpoint if there is one; with `best`, restore the best weights at the end.

    Raises:
        KeyboardInterrupt: At Ctrl-C, or `Terminated` at SIGTERM.
    """
    with stopping.at_signals():
        trainer.train(resume_from_checkpoint=checkpoint)
    if stopping.signal and trainer.state.global_step < steps:
        raise stopping.error(
            f"step {trainer.state.global_step} of {steps} is saved in {output / CHECKPOINTS}; start the same run again "
            "to resume it"
        )
    if best:
        trainer.load_best()


def _save(
    trainer: ValueTrainer, network: ValueNetwork, config: TrainingConfig, output: Path, record: Mapping[str, Any]
) -> None:
    """Write the value network to its folder in the first process, while the other processes wait."""
    state = trainer.trained_state()
    if trainer.is_world_process_zero():
        if trainer.is_fsdp_enabled:  # this process holds only a shard of the network
            network = _new_network(config, "cpu")
            TrainingObjective(network, config.regularizer).load_state_dict(state, strict=False)
        plot_curves(log_points(trainer.state.log_history), output / PLOT)
        write_card(output, network.config, record)
        save_value_network(network, output, record)
        (output / LOCK).unlink()
    trainer.accelerator.wait_for_everyone()


def _measurements(trainer: ValueTrainer, epoch_steps: int, *, best: bool) -> dict[str, Any]:
    """Return the values of a `TrainingResult` that are in the log of a run.

    Args:
        trainer: The trainer, after the run.
        epoch_steps: Number of steps in an epoch.
        best: Whether the best weights are kept instead of the last ones.
    """
    curve = log_points(trainer.state.log_history)
    before, after = _validation(trainer, best=best)
    return {
        "losses": epoch_means(curve, "nats", epoch_steps),
        "norms": epoch_means(curve, "norm", epoch_steps),
        "changed": epoch_means(curve, "changed", epoch_steps),
        "validation_before": before,
        "validation_after": after,
    }


def _arguments(config: TrainingConfig, output: Path, device: str) -> TrainingArguments:
    """Return the arguments of the Trainer; with several processes, this initializes torch.distributed."""
    arguments = TrainingArguments(
        output_dir=str(output / CHECKPOINTS),
        num_train_epochs=config.epochs,
        learning_rate=config.peak_learning_rate,
        weight_decay=0.01,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        max_grad_norm=1.0,
        gradient_accumulation_steps=config.gradient_accumulation,
        bf16=config.dtype == "bfloat16" and config.method == "full",  # with an adapter, the model itself is bfloat16
        use_cpu=torch.device(device).type == "cpu",
        ddp_find_unused_parameters=False,
        seed=config.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="tensorboard" if importlib.util.find_spec("tensorboard") else "none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one device per process, never torch's DataParallel
    parts = arguments.world_size * config.gradient_accumulation
    if config.batch_size % parts:
        raise VocabridgeError(
            f"a batch of {config.batch_size} cannot be shared by {arguments.world_size} processes in "
            f"{config.gradient_accumulation} parts each; make it a multiple of {parts}"
        )
    arguments.per_device_train_batch_size = arguments.per_device_eval_batch_size = config.batch_size // parts
    return arguments


def _schedule(arguments: TrainingArguments, epoch_steps: int, steps: int, *, evaluate: bool, start: bool) -> None:
    """Schedule checkpoints; with `evaluate` also validation after each epoch, and with `start` before the first one."""
    arguments.save_strategy, arguments.save_steps = "steps", math.ceil(steps / _SAVES)
    if evaluate:
        arguments.eval_strategy, arguments.eval_steps, arguments.eval_on_start = "steps", epoch_steps, start


def _new_network(config: TrainingConfig, device: str) -> ValueNetwork:
    """Return a new value network; only its trained weights require gradients, and they are float32."""
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
        model: Any = network.value.model  # older versions of transformers have another name for the method
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    return network


def _validation(trainer: ValueTrainer, *, best: bool) -> tuple[float | None, float | None]:
    """Return the bits per learned token of the held-out texts, for the bases alone and with the final value network."""
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
    """Return the training texts and the validation texts."""
    projected = [base for base in others if base.projection is not None]
    if projected and config.packing:
        raise VocabridgeError(
            f"texts cannot be packed for {projected[0].vocabulary.name}, which has another tokenizer; leave out packing"
        )

    def encode(source: str | Path, vocabulary: Vocabulary, model: PreTrainedModel) -> list[TrainingText]:
        return load_training_texts(source, vocabulary, max_length=config.max_length, model=model)

    def load(source: str | Path) -> list[TrainingText]:
        texts = encode(source, network.vocabulary, network.source_model)
        by_base = [
            align_texts(texts, network.vocabulary, encode(source, base.vocabulary, base.model), base.vocabulary)
            for base in projected
        ]
        return [replace(text, aligned=tuple(aligned)) for text, *aligned in zip(texts, *by_base, strict=True)]

    texts = load(data)
    if validation is None:
        return texts, []
    return split(texts, validation, config.seed) if isinstance(validation, float) else (texts, load(validation))


def _as_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields as they are after a round trip through JSON."""
    return json.loads(json.dumps(fields))
