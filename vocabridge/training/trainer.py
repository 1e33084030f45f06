"""A transformers `Trainer` for value networks, with its loss, its log and its checkpoints.

    loss = (sum over learned tokens of -log softmax(z_base + z_delta)[token] + weight * regularizer) / their number

The sums of `objective` run over all processes and gradient accumulation parts of a step, so the loss does not depend
on how a step is divided. The bases take turns, one per step. Only the value network is trained, wrapped and saved.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from vocabridge.alignment import VocabridgeError
from vocabridge.options import Regularizer
from vocabridge.training.collator import LengthGroupedSampler, TextDataset, collate
from vocabridge.training.dataset import TrainingText
from vocabridge.training.objective import TrainingObjective

RUN = "run.json"
"""File in a checkpoint that identifies the run."""

UNFINISHED = "unfinished"
"""Folder next to the checkpoints, in which a checkpoint is written and old ones are deleted."""

_KEPT = 2
"""Number of latest checkpoints that are kept, in addition to the best one."""


class ValueTrainer(Trainer):
    """A trainer of a `TrainingObjective`. All logged values are over the whole step and all processes."""

    def __init__(
        self,
        objective: TrainingObjective,
        arguments: TrainingArguments,
        texts: Sequence[TrainingText],
        held_out: Sequence[TrainingText],
        *,
        regularizer_weight: float,
        run: Mapping[str, Any],
        callbacks: list[TrainerCallback],
    ) -> None:
        """Prepare a run.

        Args:
            objective: The objective to train.
            arguments: Arguments of the Trainer.
            texts: Training texts.
            held_out: Validation texts; may be empty.
            regularizer_weight: Weight of the regularizer.
            run: Settings and inputs that must not change when the run is resumed; saved in every checkpoint.
            callbacks: Callbacks of the Trainer.
        """
        self._texts = TextDataset(texts, len(objective.aligned_index))
        super().__init__(
            model=objective,
            args=arguments,
            train_dataset=self._texts,
            eval_dataset=TextDataset(held_out, len(objective.aligned_index)) if held_out else None,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        self._objective = objective
        self._held_out = sorted(held_out, key=lambda text: len(text.ids))
        self._regularizer_weight, self._run = regularizer_weight, dict(run)
        self._released = objective.regularizer is Regularizer.RELEASED
        self._logged_sums = torch.zeros(4, device=arguments.device)  # nats, norm, changed, tokens

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of this process's share of the training texts, in the order of `LengthGroupedSampler`."""
        args = self.args
        step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        steps = math.ceil(len(self._texts) / step)
        sampler = LengthGroupedSampler(
            [len(text.ids) for text in self._texts.texts], step, args.seed, lambda: self.state.global_step // steps
        )
        loader = DataLoader(self._texts, args.train_batch_size, sampler=sampler, collate_fn=collate)
        return self.accelerator.prepare(loader)

    @property
    def _base(self) -> int:
        """Index of this step's base; it depends on the step only, so a resumed run continues with the right base."""
        return self.state.global_step % len(self._objective.bases)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Count the learned tokens of a step, in the tokens of its base."""
        index = self._objective.aligned_index.get(self._base)
        counted = batch_samples if index is None else [batch["aligned"][index] for batch in batch_samples]
        items = super()._get_num_items_in_batch(counted, device)
        # Without a common token boundary in front of any learned token, the count is 0.
        return items.clamp(min=1) if isinstance(items, Tensor) else items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the share of a batch in the step's loss, times the processes, over which gradients are averaged."""
        batch_sums = model(**inputs, base=self._base)
        self._logged_sums += torch.stack([batch_sums[name].detach() for name in ("nats", "norm", "changed", "tokens")])
        scale = self.accelerator.num_processes / num_items_in_batch
        loss = batch_sums["nats"] * scale
        if self._released:
            loss = loss + batch_sums["regularizer"] / self.current_gradient_accumulation_steps
        else:
            loss = loss + self._regularizer_weight * batch_sums["regularizer"] * scale
        return (loss, batch_sums) if return_outputs else loss

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return `eval_loss`, the cross-entropy of the held-out texts over all bases, in nats per learned token."""
        size, processes = self.args.eval_batch_size, self.args.world_size
        batches = [self._held_out[i : i + size] for i in range(0, len(self._held_out), size)]
        batches += [[self._texts[-1]]] * (-len(batches) % processes)  # every process needs the same number of forwards
        sums = torch.zeros(2, device=self.args.device)
        self.model_wrapped.eval()
        for batch in batches[self.args.process_index :: processes]:
            inputs = self._prepare_inputs(collate(batch))
            for base in range(len(self._objective.bases)):
                batch_sums = self.model_wrapped(**inputs, base=base)
                sums += torch.stack([batch_sums["nats"], batch_sums["tokens"]])
        nats, tokens = self.accelerator.reduce(sums, "sum").tolist()
        metrics = {"eval_loss": nats / tokens}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step, with the means `nats`, `norm` and `changed` per learned token and the number of `tokens` added.

        Raises:
            VocabridgeError: The loss is not finite.
        """
        if "loss" in logs:
            nats, norm, changed, tokens = self.accelerator.reduce(self._logged_sums, "sum").tolist()
            self._logged_sums = torch.zeros_like(self._logged_sums)
            if not math.isfinite(logs["loss"]):
                raise VocabridgeError(
                    f"the loss became {logs['loss']} in step {self.state.global_step}; lower the learning rate "
                    f"({self.args.learning_rate:g})"
                )
            logs |= {"nats": nats / tokens, "norm": norm / tokens, "changed": changed / tokens, "tokens": tokens}
        super().log(logs, start_time)

    @property
    def best_step(self) -> int | None:
        """Step with the lowest validation loss; None without a validation after the start of training."""
        losses = validations(self.state.log_history)
        return min(losses, key=lambda step: losses[step]) if losses else None

    def load_best(self) -> None:
        """Restore the weights of the best step from its checkpoint."""
        folder = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.best_step}"
        self._load_from_checkpoint(str(folder), self.model_wrapped)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint atomically, and delete all but the latest checkpoints and the best one."""
        folder, name = Path(str(self.args.output_dir)), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        unfinished, main = folder / UNFINISHED, self.is_world_process_zero()
        if main:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            self.args.output_dir = str(unfinished)
            super()._save_checkpoint(model, trial)
            if main:
                (unfinished / name / RUN).write_text(json.dumps(self._run, indent=2) + "\n", encoding="utf-8")
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk raises any of these
            if main:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise VocabridgeError(
                f"{folder}: step {self.state.global_step} cannot be saved ({_first_line(error)}); make room and start "
                "the same run again, which resumes from the checkpoint before"
            ) from error
        finally:
            self.args.output_dir = str(folder)
        self.accelerator.wait_for_everyone()
        if main:
            # Old checkpoints are moved before they are deleted, so that none is ever partial, and before the new one is
            # in place, so that a kill never leaves too many.
            old = {int(path.name.rpartition("-")[2]) for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
            kept = {*sorted(old - {self.state.global_step})[1 - _KEPT :], self.best_step} - {self.state.global_step}
            for step in old - kept:
                (folder / f"{PREFIX_CHECKPOINT_DIR}-{step}").rename(unfinished / f"old-{step}")
            (unfinished / name).rename(folder / name)
            shutil.rmtree(unfinished)

    def trained_state(self) -> dict[str, Tensor]:
        """Return the complete trained weights, on the CPU of the first process; every process has to call this."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = cast(dict[str, Tensor], get_model_state_dict(self.model_wrapped, options=options))
        names = [name for name, parameter in self._objective.named_parameters() if parameter.requires_grad]
        return {name: state[name].contiguous() for name in names if name in state}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trained weights, and nothing else."""
        state = self.trained_state()
        if self.args.should_save:
            folder = Path(str(output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            save_file(state, folder / SAFE_WEIGHTS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights that `save_model` wrote."""
        state = load_file(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME)
        options = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(self.model_wrapped, dict(state), options=options)


def validations(history: Sequence[Mapping[str, float]]) -> dict[int, float]:
    """Return the validation losses in a Trainer's history by step, without the one before training."""
    return {int(entry["step"]): entry["eval_loss"] for entry in history if "eval_loss" in entry and entry["step"]}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
