"""What is measured of a contender: bits of responses and of choices, and the time and memory of generation.

Each result is a record of one item, which `run_store.RunStore` stores.
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

_TIMED_TOKENS = 16


def response_bits(contender: EvaluatedModel, examples: Sequence[Example], progress: Progress) -> np.ndarray:
    """Return the bits of every response, (items,)."""
    bits = []
    for number, example in enumerate(examples, start=1):
        bits.append(sum(contender.score_response(example)["bits"]))
        progress(number, len(examples), f"{contender.name}: scoring responses")
    return np.array(bits)


def score_choices(contender: EvaluatedModel, item: Item) -> dict[str, Any]:
    """Return `bits`, the bits of each choice of an item after its prompt."""
    example = item.example
    texts = [Example(example.prompt, choice, None, example.id, example.template) for choice in item.choices]
    return {"bits": [sum(contender.score_response(text)["bits"]) for text in texts]}


def batches(examples: Sequence[Example], items: Sequence[int], size: int) -> list[list[int]]:
    """Group items into batches of at most `size` items, whose prompts have similar lengths."""
    order = sorted(items, key=lambda i: len(examples[i].prompt))
    return [order[start : start + size] for start in range(0, len(order), size)]


def cost(contender: EvaluatedModel, example: Example) -> dict[str, float | None]:
    """Measure what it costs to continue one prompt.

    Returns:
        `first_ms`: Milliseconds to the first token, including the prompt.
        `token_ms`: Milliseconds for each further token; None if the text ends with the first.
        `peak_mb`: Peak memory of the process in MB (on a GPU, the memory that torch allocated there); None where the
            system does not report it.
    """

    def time_generation(max_new_tokens: int) -> tuple[float, int]:
        start = time.perf_counter()
        (text,) = contender.generate([example.prompt], max_new_tokens, None)
        return time.perf_counter() - start, text["tokens"]

    time_generation(1)  # warm-up
    _reset_peak_memory(contender.device)
    first_seconds, first_tokens = time_generation(1)
    seconds, tokens = time_generation(1 + _TIMED_TOKENS)
    further = tokens - first_tokens
    return {
        "first_ms": 1000 * first_seconds,
        "token_ms": 1000 * (seconds - first_seconds) / further if further > 0 else None,
        "peak_mb": _peak_memory(contender.device),
    }


_CLEAR_REFS = Path("/proc/self/clear_refs")
"""The file with which Linux resets a process's peak memory."""


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5", encoding="ascii")


def _peak_memory(device: torch.device) -> float | None:
    """Return the peak memory in MB since it was last reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if not _CLEAR_REFS.exists():
        return None
    status = (_CLEAR_REFS.parent / "status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
