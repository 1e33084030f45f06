"""transformers' `Trainer` for value networks: what a step computes, in which order texts come, what a checkpoint holds.

    loss = (sum over learned tokens of -log softmax(z_base + z_delta)[token] + weight * regulariser) / their number

over the whole step, however many processes and parts it is spread over; each step has one of the bases
(`training_bases`). What is trained, wrapped and saved is the value network; its bases stand beside it. Logits are made
at the positions that need them only.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
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
from vocabridge.models import LoadedModel
from vocabridge.regulariser import Regulariser
from vocabridge.scheme import Turns
from vocabridge.training_bases import TrainingBase, whose_turn
from vocabridge.training_data import Side, TrainingText
from vocabridge.value_source import ResidualValueNetwork

RUN = "run.json"
"""The file of a checkpoint that says which run it is of."""

_IGNORED = -100
_KEPT = 2


class Lesson(nn.Module):
    """What a value network learns from a batch. Its parameters are the value network's; the base has none here."""

    accepts_loss_kwargs = True  # to the Trainer: the loss is divided by the tokens of the whole step

    def __init__(
        self, network: ResidualValueNetwork, regulariser: Regulariser, others: Sequence[TrainingBase] = ()
    ) -> None:
        """Takes a network to train, on its own base and others."""
        super().__init__()
        self.value = network.value
        small = LoadedModel("", "", network.base, network.vocabulary)
        # Plain objects, not modules of this one, so that they are neither wrapped nor saved.
        self.bases = (TrainingBase.of(small, network.vocabulary), *others)
        across = [number for number, base in enumerate(self.bases) if base.projection is not None]
        self.sides = {base: side for side, base in enumerate(across)}  # which side of a batch is in a base's tokens
        self.regulariser = regulariser

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        labels: Tensor,
        sides: Sequence[Mapping[str, Tensor]] = (),
        base: int = 0,
    ) -> dict[str, Tensor]:
        """Sums over the learned tokens of a batch.

        Args:
            input_ids: Tokens, (batch, n), padded on the right.
            position_ids: The place of each in its own text, (batch, n).
            labels: The same tokens, -100 where they are not learned.
            sides: The three in the tokens of each base of another tokenizer, (batch, m), and `behind`, as in `Side`.
            base: Which of the bases.

        Returns:
            nats: Cross-entropy of z_base + z_delta.
            regulariser: The regulariser; of `released` the mean over all positions.
            norm: |z_delta|_1 / |V|, without gradient, as is all below.
            changed: How often the likeliest token is another than the base's.
            tokens: How many tokens are learned.
        """
        chosen, side = self.bases[base], self.sides.get(base)
        read = dict(sides[side]) if side is not None else {"input_ids": input_ids, "position_ids": position_ids}
        labels, behind = read.pop("labels", labels), read.pop("behind", None)
        said, unembed = chosen.says(**read)
        learned = labels[:, 1:] != _IGNORED  # position i predicts token i + 1
        with torch.no_grad():
            kept = said[:, :-1][learned]
            z_base = (kept if unembed is None else unembed(kept)).float()
        if side is not None and self.value.scheme.takes_base:  # a cascade reads its own base, as in a bridge
            said, unembed = self.bases[0].says(input_ids, position_ids)
        inputs = self.value.inputs(input_ids, said, unembed)
        hidden = self.value.hidden(**inputs, position_ids=position_ids, use_cache=False)
        row, at = learned.nonzero(as_tuple=True)
        heard = hidden[row, at if behind is None else behind[row, at]]
        z_delta = self.value.unembed(heard).float()
        if chosen.projection is not None:
            z_delta = chosen.projection.linear(z_delta, z_base.softmax(-1))
        if self.regulariser is Regulariser.RELEASED:
            term = self.value.unembed(hidden).float().abs().mean()
        else:
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
    """Texts by index; -1 stands for nothing."""

    def __init__(self, texts: Sequence[TrainingText], nothing: TrainingText) -> None:
        self._texts = texts
        self._nothing = nothing

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> TrainingText:
        return self._nothing if index == -1 else self._texts[index]


_NOTHING = TrainingText([0], [False])


def collate(texts: Sequence[TrainingText]) -> dict[str, Any]:
    """A batch as `Lesson` takes it.

    Places go on through the padding, which no token in front of it sees: only where several texts are packed does
    attention need a mask.
    """
    batch: dict[str, Any] = _padded(texts, [text.positions for text in texts])
    batch["sides"] = []
    for several in zip(*(text.sides for text in texts), strict=True):
        side = _padded(several, [range(len(one.ids)) for one in several])
        behind = torch.full_like(side["labels"], -1)
        for row, one in enumerate(several):
            behind[row, : len(one.behind)] = torch.tensor(one.behind)
        batch["sides"].append(side | {"behind": behind})
    return batch


def _padded(texts: Sequence[TrainingText | Side], places: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    width = max(len(text.ids) for text in texts)
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    labels = torch.full((len(texts), width), _IGNORED)
    positions = torch.zeros(len(texts), width, dtype=torch.long)
    for row, (text, own) in enumerate(zip(texts, places, strict=True)):
        size = len(text.ids)
        ids[row, :size] = torch.tensor(text.ids)
        labels[row, :size] = torch.where(torch.tensor(text.learns), ids[row, :size], _IGNORED)
        positions[row] = torch.tensor([*own, *range(own[-1] + 1, own[-1] + 1 + width - size)])
    return {"input_ids": ids, "position_ids": positions, "labels": labels}


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
        turns: Turns = Turns.IN_TURN,
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
            turns: Which of the lesson's bases a step has.
            run: What must be the same when a checkpoint is taken up again; kept in it.
            callbacks: Told of what happens.
        """
        super().__init__(
            model=lesson,
            args=arguments,
            train_dataset=_Texts(texts, _NOTHING),
            eval_dataset=_Texts(held_out, _NOTHING) if held_out else None,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)
        self._lesson = lesson
        self._texts, self._held_out = texts, sorted(held_out, key=lambda text: len(text.ids))
        self._weight, self._turns, self._run = weight, turns, dict(run)
        self._nothing = replace(_NOTHING, sides=(Side([0], [False], [-1]),) * len(lesson.sides))
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
        texts = _Texts(self._texts, self._nothing)
        loader = DataLoader(texts, args.train_batch_size, sampler=order, collate_fn=collate)
        return self.accelerator.prepare(loader)

    @property
    def _base(self) -> int:
        """Which of the bases has this step."""
        return whose_turn(self._turns, self.state.global_step, len(self._lesson.bases), self.args.seed)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """The learned tokens of a step, in the tokens of the base that has it."""
        side = self._lesson.sides.get(self._base)
        counted = batch_samples if side is None else [batch["sides"][side] for batch in batch_samples]
        return super()._get_num_items_in_batch(counted, device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This part's share of the step's loss, times the processes, over which gradients are averaged."""
        said = model(**inputs, base=self._base)
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
        """`eval_loss`: cross-entropy in nats a learned token of the held-out texts, over all bases."""
        size, processes = self.args.eval_batch_size, self.args.world_size
        batches = [self._held_out[i : i + size] for i in range(0, len(self._held_out), size)]
        batches += [[self._nothing]] * (-len(batches) % processes)  # as many forwards in every process
        sums = torch.zeros(2, device=self.args.device)
        self.model_wrapped.eval()
        for batch in batches[self.args.process_index :: processes]:
            inputs = self._prepare_inputs(collate(batch))
            for base in range(len(self._lesson.bases)):
                said = self.model_wrapped(**inputs, base=base)
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
