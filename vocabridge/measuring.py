"""What is measured of a contender: how it reads responses, weighs choices, writes answers, and what that costs.

Every result is a record of one item, as `run.Run` keeps it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from vocabridge.alignment import Vocabulary
from vocabridge.answers import Extractor
from vocabridge.batch import left_padded, padding, prompt_ids
from vocabridge.contenders import Contender
from vocabridge.examples import Example, tokenize
from vocabridge.progress import Progress
from vocabridge.task import Item

BATCH = 17  # answers generated at once
_TIMED = 16  # tokens


@torch.no_grad()
def read(contender: Contender, example: Example) -> dict[str, Any]:
    """Reads a response: for each token of it its bits, where it ends, and what the contender found likeliest.

    Returns:
        `bits`, -log2 p of each; `ends`, bytes of the response up to each token's end; `likeliest`, as texts.
    """
    vocabulary = contender.vocabulary
    tokens = tokenize(example, vocabulary)
    ids = torch.tensor([tokens.ids], device=contender.model.device)
    truth = ids[0, tokens.first :]
    scores = contender.logits(ids[:, :-1], len(truth)).float()
    nats = torch.nn.functional.cross_entropy(scores, truth, reduction="none")
    starts = vocabulary.encode(example.text).starts.tolist()[tokens.first - len(tokens.ids) :]
    ends = np.array([*starts[1:], len(example.text.encode())]) - len(example.prompt.encode())
    return {
        "bits": (nats / math.log(2)).tolist(),
        "ends": ends.tolist(),
        "likeliest": [token_text(vocabulary, i) for i in scores.argmax(-1).tolist()],
    }


def response_bits(contender: Contender, examples: Sequence[Example], progress: Progress) -> np.ndarray:
    """Bits of every response, (items,)."""
    bits = []
    for number, example in enumerate(examples, start=1):
        bits.append(sum(read(contender, example)["bits"]))
        progress(number, len(examples), f"{contender.name}: reading responses")
    return np.array(bits)


def choose(contender: Contender, item: Item) -> dict[str, Any]:
    """Weighs the choices of an item: `bits` of each after the prompt."""
    one = item.example
    texts = [Example(one.prompt, choice, None, one.id, one.template) for choice in item.choices]
    return {"bits": [sum(read(contender, text)["bits"]) for text in texts]}


def write(
    contender: Contender, examples: Sequence[Example], extractor: Extractor, max_new_tokens: int
) -> list[dict[str, Any]]:
    """Continues prompts, greedily, up to the final answer: `text` and its number of `tokens`, for each."""
    prompts = [example.prompt for example in examples]
    new = _generate(contender, prompts, max_new_tokens, extractor)
    return [{"text": text_of(contender.vocabulary, ids), "tokens": len(ids)} for ids in new]


def batches(examples: Sequence[Example], asked: Sequence[int]) -> list[list[int]]:
    """Groups the items that are asked so that prompts of like length are continued together."""
    order = sorted(asked, key=lambda i: len(examples[i].prompt))
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def cost(contender: Contender, example: Example) -> dict[str, float | None]:
    """What writing costs, one text at a time.

    Returns:
        `first_ms`, milliseconds to the first token; `token_ms`, for each further one; `peak_mb`, the most memory that
        the process held meanwhile (on a GPU, that torch held there), None where that cannot be known.
    """

    def seconds(tokens: int) -> float:
        started = time.perf_counter()
        _generate(contender, [example.prompt], tokens, None)
        return time.perf_counter() - started

    device = contender.model.device
    seconds(1)
    _forget_peak(device)
    first = seconds(1)
    token = (seconds(1 + _TIMED) - first) / _TIMED
    return {"first_ms": 1000 * first, "token_ms": 1000 * token, "peak_mb": _peak(device)}


def text_of(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """The text of some tokens."""
    return b"".join(vocabulary.token_bytes[i] or b"" for i in ids).decode(errors="replace")


def token_text(vocabulary: Vocabulary, i: int) -> str:
    """One token, legible, and different for different bytes: what is no text is escaped, a control token is <id>."""
    data = vocabulary.token_bytes[i]
    return f"<{i}>" if data is None else data.decode(errors="backslashreplace")


class _Answered(StoppingCriteria):
    """Stops a row when its final answer is complete."""

    def __init__(self, extractor: Extractor, vocabulary: Vocabulary, prompt: int) -> None:
        self.extractor = extractor
        self.vocabulary = vocabulary
        self.prompt = prompt

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        rows = input_ids[:, self.prompt :].tolist()
        done = [self.extractor.is_complete(text_of(self.vocabulary, row)) for row in rows]
        return torch.tensor(done, device=input_ids.device)


@torch.no_grad()
def _generate(
    contender: Contender, prompts: Sequence[str], longest: int, extractor: Extractor | None
) -> list[list[int]]:
    """New ids of every prompt, cut at the end token; up to `longest`, or exactly that many if not to an answer."""
    vocabulary = contender.vocabulary
    pad = padding(vocabulary)
    batch = left_padded([prompt_ids(vocabulary, prompt) for prompt in prompts], pad, contender.model.device)
    width = batch["input_ids"].shape[1]
    end = None if extractor is None else vocabulary.roles.get("end")
    config = GenerationConfig(max_new_tokens=longest, do_sample=False, eos_token_id=end, pad_token_id=pad)
    stops = [] if extractor is None else [_Answered(extractor, vocabulary, width)]
    output = contender.model.generate(  # type: ignore[operator]  # the mixin is in every causal LM
        **batch, generation_config=config, stopping_criteria=StoppingCriteriaList(stops)
    )
    new = output[:, width:].tolist()
    return [row[: row.index(end)] if end in row else row for row in new]


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _LINUX.exists():
        _LINUX.write_text("5", encoding="ascii")  # the peak counts from now


def _peak(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if not _LINUX.exists():
        return None
    status = (_LINUX.parent / "status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


_LINUX = Path("/proc/self/clear_refs")
