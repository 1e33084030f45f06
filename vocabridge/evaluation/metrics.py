"""Metrics over the records of a run: each is a sum over items by another sum, so that items can be resampled.

bits per byte    bits of the response / its bytes             less is better; differences are relative
right answers    1 where the final answer is right / 1        differences in points
right choices    1 where the right choice has the fewest bits / 1
gap recovered    (base's bits - its own) / (base's bits - the ceiling's)
changed tokens   tokens of the response at which the likeliest token is not the base's / tokens
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vocabridge.evaluation.intervals import Interval, ratio
from vocabridge.evaluation.run_store import Run
from vocabridge.evaluation.tasks import Task


@dataclass(frozen=True)
class Column:
    """One contender's two sums, by item.

    Attributes:
        items: Numbers of the items that count.
        above: What is summed above, (items,).
        below: And below.
    """

    items: list[int]
    above: np.ndarray
    below: np.ndarray


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: For tables.
        relative: Whether a difference is a share of what it is compared with; else it is a number of points.
        digits: Behind the point, for people.
        scale: For people; 100 for percent.
        of: A contender's sums; None where there are no records for it.
    """

    name: str
    relative: bool
    digits: int
    scale: float
    of: Callable[[Task, Run, str], Column | None]

    def value(self, task: Task, run: Run, contender: str) -> Interval | None:
        """The metric of one contender."""
        column = self.of(task, run, contender)
        return None if column is None else _ratio(task, column.items, column.above, column.below)

    def difference(self, task: Task, run: Run, one: str, other: str) -> Interval | None:
        """One contender against another, paired by item."""
        mine, theirs = self.of(task, run, one), self.of(task, run, other)
        if mine is None or theirs is None:
            return None
        if self.relative:
            return _ratio(task, mine.items, mine.above, theirs.above, lambda value: value - 1)
        return _ratio(task, mine.items, mine.above - theirs.above, mine.below)


def _bits(task: Task, run: Run, contender: str) -> Column | None:
    items = [*range(len(task.items))]
    rows = [run.get(contender, "reading", item) for item in items]
    bits = [sum(row["bits"]) for row in rows if row is not None]
    sizes = [len(example.response.encode()) for example in task.examples]
    return Column(items, np.array(bits), np.array(sizes, float)) if len(bits) == len(items) else None


def _answers(task: Task, run: Run, contender: str) -> Column | None:
    found = [(item, run.get(contender, "writing", item)) for item in range(len(task.items))]
    written = [(item, row) for item, row in found if row is not None and task.examples[item].answer is not None]
    right = [task.extractor.is_correct(row["text"], task.examples[item].answer or "") for item, row in written]
    items = [item for item, _ in written]
    return Column(items, np.array(right, float), np.ones(len(items))) if items else None


def _choices(task: Task, run: Run, contender: str) -> Column | None:
    found = [(item, run.get(contender, "choosing", item)) for item in range(len(task.items))]
    chosen = {item: int(np.argmin(row["bits"])) for item, row in found if row is not None}
    right = [task.items[i].choices[choice] == task.items[i].example.response for i, choice in chosen.items()]
    return Column([*chosen], np.array(right, float), np.ones(len(chosen))) if chosen else None


BITS = Metric("bits per byte", relative=True, digits=3, scale=1, of=_bits)
ANSWERS = Metric("right answers", relative=False, digits=0, scale=100, of=_answers)
CHOICES = Metric("right choices", relative=False, digits=0, scale=100, of=_choices)
METRICS = (BITS, ANSWERS, CHOICES)


def gap_recovered(task: Task, run: Run, one: str, base: str, ceiling: str) -> Interval | None:
    """How far a contender gets from the base to the ceiling, in bits; None where the ceiling is the base."""
    mine, low, high = (_bits(task, run, name) for name in (one, base, ceiling))
    if mine is None or low is None or high is None or (low.above == high.above).all():
        return None
    return _ratio(task, mine.items, mine.above - low.above, high.above - low.above)


def changed_tokens(task: Task, run: Run, one: str, base: str) -> float | None:
    """The share of the responses' tokens at which a contender's likeliest token is not the base's.

    None where the two cut the responses differently.
    """
    changed = total = 0
    for item in range(len(task.items)):
        mine, theirs = run.get(one, "reading", item), run.get(base, "reading", item)
        if mine is None or theirs is None or mine["ends"] != theirs["ends"]:
            return None
        changed += sum(a != b for a, b in zip(mine["likeliest"], theirs["likeliest"], strict=True))
        total += len(mine["likeliest"])
    return changed / total


def _ratio(
    task: Task,
    items: list[int],
    above: np.ndarray,
    below: np.ndarray,
    change: Callable[[np.ndarray], np.ndarray] = lambda value: value,
) -> Interval:
    return ratio(above, below, [task.examples[item] for item in items], change)
