"""Metrics over the records of a run. Each is a ratio of two sums over items, so that items can be resampled.

metric           numerator / denominator                              difference
bits per byte    bits of the response / its bytes (lower is better)   relative
right answers    1 if the final answer is right / 1                   in percentage points
right choices    1 if the right choice has the fewest bits / 1        in percentage points
gap recovered    (base - contender) / (base - ceiling), in bits
changed tokens   tokens of the response at which the most likely token is not the base's / tokens
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vocabridge.evaluation.intervals import Interval, ratio
from vocabridge.evaluation.run_store import RunStore
from vocabridge.evaluation.tasks import Task


@dataclass(frozen=True)
class Column:
    """What each item adds to the two sums of a contender.

    Attributes:
        items: Numbers of the items that count.
        numerators: What each item adds to the numerator, (items,).
        denominators: What each item adds to the denominator, (items,).
    """

    items: list[int]
    numerators: np.ndarray
    denominators: np.ndarray


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: The name in tables.
        relative: Whether a difference is relative to the other contender's value; otherwise it is in points.
        digits: Decimal places in tables.
        scale: Factor for tables; 100 for percent.
        column: Returns a contender's sums by its name, or None if the records have none.
    """

    name: str
    relative: bool
    digits: int
    scale: float
    column: Callable[[Task, RunStore, str], Column | None]

    def value(self, task: Task, run: RunStore, contender: str) -> Interval | None:
        """Return the metric of a contender."""
        column = self.column(task, run, contender)
        return None if column is None else _ratio(task, column.items, column.numerators, column.denominators)

    def difference(self, task: Task, run: RunStore, contender: str, other: str) -> Interval | None:
        """Return the difference of a contender to another one, paired by item."""
        first, second = self.column(task, run, contender), self.column(task, run, other)
        if first is None or second is None:
            return None
        if self.relative:
            return _ratio(task, first.items, first.numerators, second.numerators, lambda value: value - 1)
        return _ratio(task, first.items, first.numerators - second.numerators, first.denominators)


def _bits(task: Task, run: RunStore, contender: str) -> Column | None:
    items = [*range(len(task.items))]
    rows = [run.get(contender, "reading", item) for item in items]
    bits = [sum(row["bits"]) for row in rows if row is not None]
    sizes = [len(example.response.encode()) for example in task.examples]
    return Column(items, np.array(bits), np.array(sizes, float)) if len(bits) == len(items) else None


def _answers(task: Task, run: RunStore, contender: str) -> Column | None:
    rows = [(item, run.get(contender, "writing", item)) for item in range(len(task.items))]
    answered = [(item, row) for item, row in rows if row is not None and task.examples[item].answer is not None]
    right = [task.extractor.is_correct(row["text"], task.examples[item].answer or "") for item, row in answered]
    items = [item for item, _ in answered]
    return Column(items, np.array(right, float), np.ones(len(items))) if items else None


def _choices(task: Task, run: RunStore, contender: str) -> Column | None:
    rows = [(item, run.get(contender, "choosing", item)) for item in range(len(task.items))]
    chosen = {item: int(np.argmin(row["bits"])) for item, row in rows if row is not None}
    right = [task.items[i].choices[choice] == task.items[i].example.response for i, choice in chosen.items()]
    return Column([*chosen], np.array(right, float), np.ones(len(chosen))) if chosen else None


BITS = Metric("bits per byte", relative=True, digits=3, scale=1, column=_bits)
ANSWERS = Metric("right answers", relative=False, digits=0, scale=100, column=_answers)
CHOICES = Metric("right choices", relative=False, digits=0, scale=100, column=_choices)
METRICS = (BITS, ANSWERS, CHOICES)


def gap_recovered(task: Task, run: RunStore, contender: str, base: str, ceiling: str) -> Interval | None:
    """Return the share of the gap in bits between base and ceiling that a contender closes.

    The result is None where records are missing, or where the ceiling has exactly the base's bits.
    """
    column, low, high = (_bits(task, run, name) for name in (contender, base, ceiling))
    if column is None or low is None or high is None or (low.numerators == high.numerators).all():
        return None
    recovered, gap = column.numerators - low.numerators, high.numerators - low.numerators
    return _ratio(task, column.items, recovered, gap)


def changed_tokens(task: Task, run: RunStore, contender: str, base: str) -> float | None:
    """Return the share of the responses' tokens at which a contender's most likely token is not the base's.

    The result is None where records are missing, or where the two tokenize a response differently.
    """
    changed = total = 0
    for item in range(len(task.items)):
        row, base_row = run.get(contender, "reading", item), run.get(base, "reading", item)
        if row is None or base_row is None or row["ends"] != base_row["ends"]:
            return None
        changed += sum(a != b for a, b in zip(row["most_likely"], base_row["most_likely"], strict=True))
        total += len(row["most_likely"])
    return changed / total


def _ratio(
    task: Task,
    items: list[int],
    numerators: np.ndarray,
    denominators: np.ndarray,
    transform: Callable[[np.ndarray], np.ndarray] = lambda value: value,
) -> Interval:
    return ratio(numerators, denominators, [task.examples[item] for item in items], transform)
