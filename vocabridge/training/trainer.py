"""transformers' `Trainer` for value networks: what a step minimises, what is logged, what a checkpoint holds.

    loss = (sum over learned tokens of -log softmax(z_base + z_delta)[token] + weight * regularizer) / their number

over the whole step (`objective` has the sums), however many processes and parts it is spread over; each step has one of
the bases, in turn. What is trained, wrapped and saved is the value network; its bases stand beside it.
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
from vocabridge.training.collator import LengthGrouped, Texts, collate
from vocabridge.training.dataset import TrainingText
from vocabridge.training.objective import TrainingObjective

RUN = "run.json"
"""The file of a checkpoint that says which run it is of."""

UNFINISHED = "unfinished"
"""Beside the checkpoints: the folder in which one is written, and in which old ones are removed."""

_KEPT = 2


class ValueTrainer(Trainer):
    """Trains a `TrainingObjective`. Every number that it logs is of the whole step, over all processes."""

    def __init__(
        self,
        objective: TrainingObjective,
        arguments: TrainingArguments,
        texts: Sequence[TrainingText],
        held_out: Sequence[TrainingText],
        *,
        weight: float,
        run: Mapping[str, Any],
        callbacks: list[TrainerCallback],
    ) -> None:
        """Prepares a run.

        Args:
            objective: What to train.
            arguments: The Trainer's.
            texts: To train on.
            held_out: To validate on, perhaps none.
            weight: Of the regularizer.
            run: What must be the same when a checkpoint is taken up again; kept in it.
            callbacks: Told of what happens.
        """
        self._texts = Texts(texts, len(objective.sides))
        super().__init__(
            model=objective,
            args=arguments,
            train_dataset=self._texts,
            eval_dataset=Texts(held_out, len(objective.sides)) if held_out else None,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        self._objective = objective
        self._held_out = sorted(held_out, key=lambda text: len(text.ids))
        self._weight, self._run = weight, dict(run)
        self._released = objective.regularizer is Regularizer.RELEASED
        self._watched = torch.zeros(4, device=arguments.device)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The training texts in the order of `LengthGrouped`, this process's share of them."""
        args = self.args
        step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        steps = math.ceil(len(self._texts) / step)
        order = LengthGrouped(
            [len(text.ids) for text in self._texts.texts], step, args.seed, lambda: self.state.global_step // steps
        )
        loader = DataLoader(self._texts, args.train_batch_size, sampler=order, collate_fn=collate)
        return self.accelerator.prepare(loader)

    @property
    def _base(self) -> int:
        """Which of the bases has this step: they take turns, also where a run is taken up again."""
        return self.state.global_step % len(self._objective.bases)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """The learned tokens of a step, in the tokens of the base that has it."""
        side = self._objective.sides.get(self._base)
        counted = batch_samples if side is None else [batch["sides"][side] for batch in batch_samples]
        items = super()._get_num_items_in_batch(counted, device)
        # There may be no common boundary in front of any learned token.
        return items.clamp(min=1) if isinstance(items, Tensor) else items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This part's share of the step's loss, times the processes, over which gradients are averaged."""
        batch_sums = model(**inputs, base=self._base)
        self._watched += torch.stack([batch_sums[name].detach() for name in ("nats", "norm", "changed", "tokens")])
        scale = self.accelerator.num_processes / num_items_in_batch
        loss = batch_sums["nats"] * scale
        if self._released:
            loss = loss + batch_sums["regularizer"] / self.current_gradient_accumulation_steps
        else:
            loss = loss + self._weight * batch_sums["regularizer"] * scale
        return (loss, batch_sums) if return_outputs else loss

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """`eval_loss`: cross-entropy in nats a learned token of the held-out texts, over all bases."""
        size, processes = self.args.eval_batch_size, self.args.world_size
        batches = [self._held_out[i : i + size] for i in range(0, len(self._held_out), size)]
        batches += [[self._texts[-1]]] * (-len(batches) % processes)  # as many forwards in every process
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
        """Adds to a step's `loss`: `nats`, `norm` and the share `changed`, a learned token, and the number of `tokens`.

        Raises:
            VocabridgeError: The loss is not finite.
        """
        if "loss" in logs:
            nats, norm, changed, tokens = self.accelerator.reduce(self._watched, "sum").tolist()
            self._watched = torch.zeros_like(self._watched)
            if not math.isfinite(logs["loss"]):
                raise VocabridgeError(
                    f"the loss became {logs['loss']} in step {self.state.global_step}; lower the learning rate "
                    f"({self.args.learning_rate:g})"
                )
            logs |= {"nats": nats / tokens, "norm": norm / tokens, "changed": changed / tokens, "tokens": tokens}
        super().log(logs, start_time)

    @property
    def best_step(self) -> int | None:
        """The step after which the held-out texts cost least; None where there was no validation since the first."""
        losses = validations(self.state.log_history)
        return min(losses, key=lambda step: losses[step]) if losses else None

    def load_best(self) -> None:
        """Takes the weights of the best step back, from its checkpoint."""
        folder = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.best_step}"
        self._load_from_checkpoint(str(folder), self.model_wrapped)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint beside its place and renames it, then removes those before the last two and the best."""
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
        except (OSError, RuntimeError, SafetensorError) as error:  # three ways to say that a disk is full
            if main:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise VocabridgeError(
                f"{folder}: step {self.state.global_step} cannot be saved ({_first_line(error)}); what was saved "
                "before is still there: make room and start the same run again"
            ) from error
        finally:
            self.args.output_dir = str(folder)
        self.accelerator.wait_for_everyone()
        if main:
            # What goes is moved, so that it is whole or not there, and goes first, so that a kill leaves none too many.
            old = {int(path.name.rpartition("-")[2]) for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
            kept = {*sorted(old - {self.state.global_step})[1 - _KEPT :], self.best_step} - {self.state.global_step}
            for step in old - kept:
                (folder / f"{PREFIX_CHECKPOINT_DIR}-{step}").rename(unfinished / f"old-{step}")
            (unfinished / name).rename(folder / name)
            shutil.rmtree(unfinished)

    def trained(self) -> dict[str, Tensor]:
        """What is trained, whole and on the CPU in the first process; every process has to ask."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = cast(dict[str, Tensor], get_model_state_dict(self.model_wrapped, options=options))
        names = [name for name, parameter in self._objective.named_parameters() if parameter.requires_grad]
        return {name: state[name].contiguous() for name in names if name in state}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes what is trained, and nothing else."""
        state = self.trained()
        if self.args.should_save:
            folder = Path(str(output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            save_file(state, folder / SAFE_WEIGHTS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Takes back what `save_model` wrote."""
        state = load_file(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME)
        options = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(self.model_wrapped, dict(state), options=options)


def validations(history: Sequence[Mapping[str, float]]) -> dict[int, float]:
    """The validation losses in a Trainer's log, by step, but for the first, before any training."""
    return {int(entry["step"]): entry["eval_loss"] for entry in history if "eval_loss" in entry and entry["step"]}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
