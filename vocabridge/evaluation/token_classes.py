"""Bits by class of token, and by whether the two vocabularies share a boundary, to show where a contender gains.

Contenders with different vocabularies tokenize a response differently, so all bits are assigned to the base's tokens:
the bits of a token are spread evenly over its bytes, and then summed over the bytes of each base token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from vocabridge.alignment.tokenizers.classes import classify
from vocabridge.evaluation.contenders import label_of
from vocabridge.evaluation.run_store import RunStore
from vocabridge.evaluation.tasks import Task
from vocabridge.options import Contender


@dataclass(frozen=True)
class ClassBits:
    """The base's tokens of one class in the responses.

    Attributes:
        name: The class, as in `vocabridge.alignment.tokenizers.classes`; or "common boundary" if the donor's tokenizer
            also has a boundary where the token starts, else "other boundary".
        tokens: The number of tokens.
        bits_per_byte: Bits per byte of each contender over the bytes of these tokens.
    """

    name: str
    tokens: int
    bits_per_byte: dict[str, float]


def bits_by_class(task: Task, run: RunStore, contenders: Sequence[str]) -> list[ClassBits]:
    """Sum the bits of the responses by class, then by boundary; the result is empty without records of the base."""
    tokens: dict[str, int] = defaultdict(int)
    sizes: dict[str, int] = defaultdict(int)
    bits: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for item, example in enumerate(task.examples):
        rows = {name: run.get(name, "reading", item) for name in contenders}
        base = rows.get(label_of(Contender.BASE))
        if base is None:
            return []
        response = example.response.encode()
        ends = [0, *base["ends"]]
        bits_of_tokens = {name: _bits_between(ends, row) for name, row in rows.items() if row is not None}
        donor = rows.get(label_of(Contender.DONOR))
        common = None if donor is None else {0, *donor["ends"]}
        for number, (start, end) in enumerate(pairwise(ends)):
            names = [classify(response[start:end]).label]
            if common is not None:
                names.append(f"{'common' if start in common else 'other'} boundary")
            for name in names:
                tokens[name] += 1
                sizes[name] += end - start
                for contender, values in bits_of_tokens.items():
                    bits[name][contender] += float(values[number])
    order = sorted(tokens, key=lambda name: (name.endswith(" boundary"), -tokens[name]))
    return [
        ClassBits(
            name, tokens[name], {contender: total / max(1, sizes[name]) for contender, total in bits[name].items()}
        )
        for name in order
    ]


def _bits_between(offsets: Sequence[int], row: Mapping[str, Any]) -> np.ndarray:
    """Return a contender's bits between each two consecutive byte offsets of the response."""
    boundaries = np.array([0, *row["ends"]])
    return np.diff(np.interp(offsets, boundaries, np.concatenate([[0.0], np.cumsum(row["bits"])])))
