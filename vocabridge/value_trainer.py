"""transformers' `Trainer` for value networks: what a step computes, in which order texts come, what a checkpoint holds.

    loss = (sum over learned tokens of -log softmax(z_base + z_delta)[token] + weight * regulariser) / their number

over the whole step, however many processes and parts it is spread over. What is trained, wrapped and saved is the value
network; its base stands beside it. Logits are made at the positions that need them only.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_NAME

from vocabridge.alignment import VocabridgeError
from vocabridge.regulariser import Regulariser
from vocabridge.training_data import TrainingText
from vocabridge.value_source import ResidualValueNetwork

RUN = "run.json"
"""The file of a checkpoint that says which run it is of."""

_IGNORED = -100
_KEPT = 2


class Lesson(nn.Module):
    """What a value network learns from a batch. Its parameters are the value network's; the base has none here."""

    accepts_loss_kwargs = True  # to the Trainer: the loss is divided by the tokens of the whole step

    def __init__(self, network: ResidualValueNetwork, regulariser: Regulariser) -> None:
        """Takes a network to train."""
        super().__init__()
        self.value = network.value
        self._base = (network.base,)  # not a module of this one, so that it is neither wrapped nor saved
        self.regulariser = regulariser

    def forward(self, input_ids: Tensor, position_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Sums over the learned tokens of a batch.

        Args:
            input_ids: Tokens, (batch, n), padded on the right.
            position_ids: The place of each in its own text, (batch, n).
            labels: The same tokens, -100 where they are not learned.

        Returns:
            nats: Cross-entropy of z_base + z_delta.
            regulariser: The regulariser; of `released` the mean over all positions.
            norm: |z_delta|_1 / |V|, without gradient, as is all below.
            changed: How often the likeliest token is another than the base's.
            tokens: How many tokens are learned.
        """
        (base,) = self._base
        unembed = base.get_output_embeddings()
        places = {"position_ids": position_ids, "use_cache": False}
        with torch.no_grad():
            said = base.base_model(input_ids=input_ids, **places).last_hidden_state
        hidden = self.value.hidden(**self.value.inputs(input_ids, said, unembed), **places)
        learned = labels[:, 1:] != _IGNORED  # position i predicts token i + 1
        with torch.no_grad():
            z_base = unembed(said[:, :-1][learned]).float()
        if self.regulariser is Regulariser.RELEASED:
            everywhere = self.value.unembed(hidden).float()
            z_delta, term = everywhere[:, :-1][learned], everywhere.abs().mean()
        else:
            z_delta = self.value.unembed(hidden[:, :-1][learned]).float()
            term = self.regulariser.at(z_base, z_delta).sum()
        z = z_base + z_delta
        return {
            "nats": functional.cross_entropy(z, labels[:, 1:][learned], reduction="sum"),
            "regulariser": term,
            "norm": z_delta.detach().abs().mean(-1).sum(),
            "changed": (z.argmax(-1) != z_base.argmax(-1)).sum().float(),
            "tokens": learned.sum().float(),
        }


class LengthGrouped(Sampler[int]):
    """The order of texts in an epoch: batches of like length, so that little of a batch is padding.

    The last batch is filled up with -1, which stands for nothing, so that every process has as many.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int, epoch: Callable[[], int]) -> None:
        """Orders texts of these lengths, in each epoch otherwise; what epoch it is is asked when one begins."""
        self._lengths, self._batch, self._seed, self._epoch = lengths, batch, seed, epoch

    def __len__(self) -> int:
        """Places in an epoch, a multiple of the batch."""
        return math.ceil(len(self._lengths) / self._batch) * self._batch

    def __iter__(self) -> Iterator[int]:
        """Indices of texts."""
        generator = torch.Generator().manual_seed((1_000_003 * self._seed + self._epoch()) % 2**63)
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        pool, batches = 16 * self._batch, []
        for start in range(0, len(order), pool):
            chunk = sorted(order[start : start + pool], key=lambda i: self._lengths[i])
            batches += [chunk[i : i + self._batch] for i in range(0, len(chunk), self._batch)]
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i] + [-1] * (self._batch - len(batches[i]))


class _Texts(Dataset[TrainingText]):
    """Texts by index; -1 is an empty one."""

    def __init__(self, texts: Sequence[TrainingText]) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> TrainingText:
        return _NOTHING if index == -1 else self._texts[index]


_NOTHING = TrainingText([0], [False])


def collate(texts: Sequence[TrainingText]) -> dict[str, Tensor]:
    """A batch as `Lesson` takes it.

    Places go on through the padding, which no token in front of it sees: only where several texts are packed does
    attention need a mask.
    """
    width = max(len(text.ids) for text in texts)
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    labels = torch.full((len(texts), width), _IGNORED)
    places = torch.zeros(len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        size, own = len(text.ids), text.positions
        ids[row, :size] = torch.tensor(text.ids)
        labels[row, :size] = torch.where(torch.tensor(text.learns), ids[row, :size], _IGNORED)
        places[row] = torch.tensor([*own, *range(own[-1] + 1, own[-1] + 1 + width - size)])
    return {"input_ids": ids, "position_ids": places, "labels": labels}


class ValueTrainer(Trainer):
    """Trains a `Lesson`. Every number that it logs is of the whole step, over all processes."""

    def __init__(
        self,
        lesson: Lesson,
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
            lesson: What to train.
            arguments: The Trainer's.
            texts: To train on.
            held_out: To validate on, perhaps none.
            weight: Of the regulariser.
            run: What must be the same when a checkpoint is taken up again; kept in it.
            callbacks: Told of what happens.
        """
        super().__init__(
            model=lesson,
            args=arguments,
            train_dataset=_Texts(texts),
            eval_dataset=_Texts(held_out) if held_out else None,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        self._lesson = lesson
        self._texts, self._held_out = texts, sorted(held_out, key=lambda text: len(text.ids))
        self._weight, self._run = weight, dict(run)
        self._released = lesson.regulariser is Regulariser.RELEASED
        self._watched = torch.zeros(4, device=arguments.device)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The training texts in the order of `LengthGrouped`, this process's share of them."""
        args = self.args
        step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        steps = math.ceil(len(self._texts) / step)
        order = LengthGrouped(
            [len(text.ids) for text in self._texts], step, args.seed, lambda: self.state.global_step // steps
        )
        loader = DataLoader(_Texts(self._texts), args.train_batch_size, sampler=order, collate_fn=collate)
        return self.accelerator.prepare(loader)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This part's share of the step's loss, times the processes, over which gradients are averaged."""
        said = model(**inputs)
        self._watched += torch.stack([said[name].detach() for name in ("nats", "norm", "changed", "tokens")])
        scale = self.accelerator.num_processes / num_items_in_batch
        loss = said["nats"] * scale
        if self._released:
            loss = loss + said["regulariser"] / self.current_gradient_accumulation_steps
        else:
            loss = loss + self._weight * said["regulariser"] * scale
        return (loss, said) if return_outputs else loss

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """`eval_loss`: cross-entropy in nats a learned token of the held-out texts."""
        size, processes = self.args.eval_batch_size, self.args.world_size
        batches = [self._held_out[i : i + size] for i in range(0, len(self._held_out), size)]
        batches += [[_NOTHING]] * (-len(batches) % processes)  # as many forwards in every process
        sums = torch.zeros(2, device=self.args.device)
        self.model_wrapped.eval()
        for batch in batches[self.args.process_index :: processes]:
            said = self.model_wrapped(**self._prepare_inputs(collate(batch)))
            sums += torch.stack([said["nats"], said["tokens"]])
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
        unfinished, main = folder / "unfinished", self.is_world_process_zero()
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
            shutil.rmtree(folder / name, ignore_errors=True)
            (unfinished / name).rename(folder / name)
            unfinished.rmdir()
            steps = sorted(int(path.name.rpartition("-")[2]) for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
            for step in set(steps[:-_KEPT]) - {self.best_step}:
                shutil.rmtree(folder / f"{PREFIX_CHECKPOINT_DIR}-{step}")

    def trained(self) -> dict[str, Tensor]:
        """What is trained, whole and on the CPU in the first process; every process has to ask."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = cast(dict[str, Tensor], get_model_state_dict(self.model_wrapped, options=options))
        names = [name for name, parameter in self._lesson.named_parameters() if parameter.requires_grad]
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
