"""Where a contender gains: bits by class of token, and by how the two vocabularies cut the text there.

Contenders of different vocabularies cut a response differently. It is counted by the base's tokens: a token's bits are
spread evenly over its bytes, and summed over those of each base token.
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
from vocabridge.evaluation.run_store import Run
from vocabridge.evaluation.tasks import Task
from vocabridge.options import Contender


@dataclass(frozen=True)
class ClassBits:
    """The base's tokens of one class in the responses.

    Attributes:
        name: The class, by `vocabridge.alignment.tokenizers.classes`; or "... boundary", by whether the donor's
            tokenizer has one where the token begins.
        tokens: How many there are.
        bits_per_byte: Of each contender, over the bytes of these tokens.
    """

    name: str
    tokens: int
    bits_per_byte: dict[str, float]


def bits_by_class(task: Task, run: Run, contenders: Sequence[str]) -> list[ClassBits]:
    """Sums up how contenders read the responses; nothing without the base. Classes first, then boundaries."""
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
        at = {name: _at(row, ends) for name, row in rows.items() if row is not None}
        donor = rows.get(label_of(Contender.DONOR))
        common = None if donor is None else {0, *donor["ends"]}
        for number, (start, end) in enumerate(pairwise(ends)):
            names = [classify(response[start:end]).label]
            if common is not None:
                names.append(f"{'common' if start in common else 'other'} boundary")
            for name in names:
                tokens[name] += 1
                sizes[name] += end - start
                for contender, found in at.items():
                    bits[name][contender] += float(found[number])
    order = sorted(tokens, key=lambda name: (name.endswith(" boundary"), -tokens[name]))
    return [
        ClassBits(name, tokens[name], {one: total / max(1, sizes[name]) for one, total in bits[name].items()})
        for name in order
    ]


def _at(row: Mapping[str, Any], ends: Sequence[int]) -> np.ndarray:
    """Bits of a reading between each two of these places of the response."""
    own = np.array([0, *row["ends"]])
    return np.diff(np.interp(ends, own, np.concatenate([[0.0], np.cumsum(row["bits"])])))
