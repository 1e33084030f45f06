"""Trains a residual value network: z_post = z_base + z_delta with the small base frozen.

    loss = mean over response tokens of  -log softmax(z_base + z_delta)[token]  +  norm_weight * |z_delta|_1 / |V|

Source: Lu et al., arXiv 2410.21027, equations as in its released code; there the norm term always has weight 1 and
counts padding, here it has a weight and counts response positions only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from vocabridge.alignment import VocabridgeError
from vocabridge.examples import Example, TokenizedExample, load_examples, tokenize
from vocabridge.progress import Progress, unheard
from vocabridge.value_network import new_value_network, save_value_network
from vocabridge.value_source import ResidualValueNetwork


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        base: The small base by name.
        method: "lora" (adapter on every linear layer) or "full".
        epochs: Passes over the data.
        learning_rate: Peak of a cosine schedule with 3% warm-up.
        batch_size: Examples a step.
        rank: The adapter's rank.
        norm_weight: Weight of the norm term.
        max_length: Longest example in tokens; longer ones are an error, never cut.
        seed: Of the order of examples and of the adapter's initialisation.
    """

    base: str
    method: str = "lora"
    epochs: int = 1
    learning_rate: float = 1e-3
    batch_size: int = 8
    rank: int = 8
    norm_weight: float = 0.1
    max_length: int = 1024
    seed: int = 0


@dataclass(frozen=True)
class TrainingResult:
    """What training did.

    Attributes:
        folder: Where the value network is.
        examples: Number of training examples.
        steps: Number of optimizer steps.
        losses: Mean cross-entropy a response token in nats, one an epoch.
        norms: Mean |z_delta|_1 / |V| at response positions, one an epoch.
        validation_before: Bits per response token of the base on the validation examples; None without any.
        validation_after: The same with the value network.
        seconds: Wall time.
    """

    folder: str
    examples: int
    steps: int
    losses: list[float]
    norms: list[float]
    validation_before: float | None
    validation_after: float | None
    seconds: float


def train_value_network(
    recipe: Recipe,
    data: Path,
    output: Path,
    *,
    validation: Path | None = None,
    device: str = "cpu",
    progress: Progress = unheard,
) -> TrainingResult:
    """Trains a value network on (prompt, response) JSONL and writes it to a folder.

    Args:
        recipe: How.
        data: Training examples.
        output: The folder for the value network; written once, at the end.
        validation: Examples to report the loss on, before and after.
        device: Where to train.
        progress: Told of every step.

    Raises:
        VocabridgeError: The data or the model cannot be read, an example is too long, the loss is not finite, or
            the folder already holds a value network.
    """
    if output.exists() and any(output.iterdir() if output.is_dir() else [output]):
        raise VocabridgeError(f"{output} is not empty; name a new folder, or remove it first")
    started = time.monotonic()
    torch.manual_seed(recipe.seed)
    network = new_value_network(recipe.base, method=recipe.method, rank=recipe.rank, device=device)
    examples = _tokenized(load_examples(data), network, recipe)
    held_out = _tokenized(load_examples(validation), network, recipe) if validation else []
    value = network.value
    for name, parameter in value.model.named_parameters():
        parameter.requires_grad_(recipe.method == "full" or "lora_" in name)
    trainable = [parameter for parameter in value.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=recipe.learning_rate, weight_decay=0.01)
    steps = recipe.epochs * math.ceil(len(examples) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _cosine(step, steps))

    before = _bits_per_token(network, held_out, recipe.batch_size) if held_out else None
    losses, norms, step = [], [], 0
    generator = torch.Generator().manual_seed(recipe.seed)
    for epoch in range(recipe.epochs):
        totals = torch.zeros(3, device=device)  # nats, norm, tokens
        value.train()
        for batch in _batches(examples, recipe.batch_size, generator):
            nats, norm, count = _sums(network, batch)
            loss = (nats + recipe.norm_weight * norm) / count
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            schedule.step()
            totals += torch.stack([nats.detach(), norm.detach(), torch.tensor(float(count), device=device)])
            step += 1
            progress(step, steps, f"epoch {epoch + 1}, {totals[0] / totals[2]:.3f} nats a token")
        losses.append(float(totals[0] / totals[2]))
        norms.append(float(totals[1] / totals[2]))
        if not math.isfinite(losses[-1]):
            raise VocabridgeError(
                f"the loss became {losses[-1]} in epoch {epoch + 1}; lower the learning rate ({recipe.learning_rate:g})"
            )
    value.eval()
    after = _bits_per_token(network, held_out, recipe.batch_size) if held_out else None
    result = TrainingResult(
        folder=str(output),
        examples=len(examples),
        steps=steps,
        losses=losses,
        norms=norms,
        validation_before=before,
        validation_after=after,
        seconds=time.monotonic() - started,
    )
    record = {"recipe": asdict(recipe), "data": data.name, "torch": torch.__version__} | {
        key: value for key, value in asdict(result).items() if key != "folder"
    }
    save_value_network(network, output, record)
    return result


def _tokenized(examples: Sequence[Example], network: ResidualValueNetwork, recipe: Recipe) -> list[TokenizedExample]:
    """Tokens of every example; a response ends with the end token, where the vocabulary has one."""
    end = [network.vocabulary.roles["end"]] if "end" in network.vocabulary.roles else []
    result = []
    for example in examples:
        tokens = tokenize(example, network.vocabulary)
        if len(tokens.ids) + len(end) > recipe.max_length:
            raise VocabridgeError(
                f"example {example.id} has {len(tokens.ids) + len(end)} tokens, more than the limit of "
                f"{recipe.max_length}; raise the limit or remove the example"
            )
        result.append(TokenizedExample(ids=tokens.ids + end, first=tokens.first))
    return result


def _batches(
    examples: Sequence[TokenizedExample], size: int, generator: torch.Generator
) -> Iterator[Sequence[TokenizedExample]]:
    """Shuffled batches of examples of like length, so that little of a batch is padding."""
    order = torch.randperm(len(examples), generator=generator).tolist()
    pool = size * 16
    batches = []
    for start in range(0, len(order), pool):
        chunk = sorted(order[start : start + pool], key=lambda i: len(examples[i].ids))
        batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    for i in torch.randperm(len(batches), generator=generator).tolist():
        yield [examples[j] for j in batches[i]]


def _sums(network: ResidualValueNetwork, batch: Sequence[TokenizedExample]) -> tuple[Tensor, Tensor, int]:
    """Sums over a batch's response tokens: cross-entropy in nats, |z_delta|_1 / |V|; and how many they are."""
    base, value = network.base, network.value
    device = base.device
    width = max(len(example.ids) for example in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros(len(batch), width, dtype=torch.long)
    response = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, example in enumerate(batch):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        mask[row, : len(example.ids)] = 1
        response[row, example.first : len(example.ids)] = True
    ids, mask, response = ids.to(device), mask.to(device), response.to(device)
    predicts = response[:, 1:]  # position i predicts token i + 1
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    with torch.no_grad():
        hidden = base.base_model(**inputs).last_hidden_state[:, :-1][predicts]
        z_base = base.get_output_embeddings()(hidden)
    delta = value.unembed(value.hidden(**inputs)[:, :-1][predicts])
    nats = functional.cross_entropy(z_base.float() + delta.float(), ids[:, 1:][predicts], reduction="sum")
    return nats, delta.float().abs().mean(-1).sum(), int(predicts.sum())


@torch.no_grad()
def _bits_per_token(network: ResidualValueNetwork, examples: Sequence[TokenizedExample], size: int) -> float:
    total, count = 0.0, 0
    for start in range(0, len(examples), size):
        nats, _, tokens = _sums(network, examples[start : start + size])
        total, count = total + float(nats), count + tokens
    return total / count / math.log(2)


def _cosine(step: int, steps: int) -> float:
    warm_up = max(1, round(0.03 * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
