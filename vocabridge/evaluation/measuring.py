"""What is measured of a contender: how it reads responses, weighs choices, writes answers, and what that costs.

Every result is a record of one item, as `run_store.Run` keeps it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vocabridge.evaluation.scoring import EvaluatedModel
from vocabridge.evaluation.tasks import Item
from vocabridge.models.examples import Example
from vocabridge.utils.progress import Progress

_TIMED = 16  # tokens


def response_bits(contender: EvaluatedModel, examples: Sequence[Example], progress: Progress) -> np.ndarray:
    """Bits of every response, (items,)."""
    bits = []
    for number, example in enumerate(examples, start=1):
        bits.append(sum(contender.read(example)["bits"]))
        progress(number, len(examples), f"{contender.name}: reading responses")
    return np.array(bits)


def choose(contender: EvaluatedModel, item: Item) -> dict[str, Any]:
    """Weighs the choices of an item: `bits` of each after the prompt."""
    one = item.example
    texts = [Example(one.prompt, choice, None, one.id, one.template) for choice in item.choices]
    return {"bits": [sum(contender.read(text)["bits"]) for text in texts]}


def batches(examples: Sequence[Example], asked: Sequence[int], size: int) -> list[list[int]]:
    """Groups the items that are asked so that prompts of like length are continued together, so many at once."""
    order = sorted(asked, key=lambda i: len(examples[i].prompt))
    return [order[start : start + size] for start in range(0, len(order), size)]


def cost(contender: EvaluatedModel, example: Example) -> dict[str, float | None]:
    """What writing costs, one text at a time.

    Returns:
        `first_ms`, milliseconds to the first token; `token_ms`, for each further one, None where the text ends with the
        first; `peak_mb`, the most memory that the process held meanwhile (on a GPU, that torch held there), None where
        that cannot be known.
    """

    def written(longest: int) -> tuple[float, int]:
        started = time.perf_counter()
        (text,) = contender.write([example.prompt], longest, None)
        return time.perf_counter() - started, text["tokens"]

    written(1)
    _forget_peak(contender.device)
    first, few = written(1)
    seconds, many = written(1 + _TIMED)
    return {
        "first_ms": 1000 * first,
        "token_ms": 1000 * (seconds - first) / (many - few) if many > few else None,
        "peak_mb": _peak(contender.device),
    }


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
