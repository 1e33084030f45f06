"""The results of an evaluation, computed from the records of a run: figures with intervals, as tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vocabridge.alignment import write_atomically
from vocabridge.evaluation.contenders import CONTENDERS, label_of
from vocabridge.evaluation.contenders.bridge_setting import BridgeSetting
from vocabridge.evaluation.intervals import RESAMPLES, SEED, Interval
from vocabridge.evaluation.metrics import (
    ANSWERS,
    BITS,
    CHOICES,
    METRICS,
    Metric,
    changed_tokens,
    gap_recovered,
)
from vocabridge.evaluation.run_store import RunStore
from vocabridge.evaluation.tasks import Task
from vocabridge.evaluation.token_classes import ClassBits, bits_by_class
from vocabridge.options import Contender

SHOWN = 3
"""Number of items that are shown with their texts."""


@dataclass(frozen=True)
class Measured:
    """The results of one contender. A figure is None if it was not measured or does not exist.

    Attributes:
        name: The contender.
        bits_per_byte: Bits per byte of the responses, teacher-forced.
        accuracy: Share of right final answers.
        choice_accuracy: Share of items whose right choice is the most likely one.
        gap_recovered: (base - contender) / (base - ceiling), in bits.
        changed_tokens: Share of the responses' tokens at which the most likely token is not the base's.
        first_token_ms: Milliseconds to the first generated token, including the prompt.
        token_ms: Milliseconds for each further token.
        peak_mb: Peak memory of the process during generation, in MB.
        setting: The contender's setting, chosen on the validation items or given.
    """

    name: str
    bits_per_byte: Interval | None
    accuracy: Interval | None
    choice_accuracy: Interval | None
    gap_recovered: Interval | None
    changed_tokens: float | None
    first_token_ms: float | None
    token_ms: float | None
    peak_mb: float | None
    setting: dict[str, Any] | None


@dataclass(frozen=True)
class Difference:
    """The difference between the bridge and another contender.

    Attributes:
        against: The other contender.
        metric: The metric.
        relative: Whether the difference is relative to the other contender's value; otherwise it is one of shares.
        difference: The bridge's value minus the other's, paired by item.
    """

    against: str
    metric: str
    relative: bool
    difference: Interval


@dataclass(frozen=True)
class Sample:
    """One item with the texts and scores of every contender.

    Attributes:
        prompt: The prompt.
        reference: The response of the data.
        generations: The text that each contender generated; empty if no answers were generated.
        readings: Each contender's scores of the reference: `bits`, `ends` and `most_likely` of its tokens.
    """

    prompt: str
    reference: str
    generations: dict[str, str]
    readings: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        base: Name of the base model.
        value: Name of the value source.
        data: Name of the test file.
        items: Number of test items.
        templates: Number of groups of items that are resampled together.
        answered: Number of items whose answers were scored.
        chosen: Number of multiple choices.
        seed: Seed of the resampling and of the fit; nothing else is random.
        resamples: Number of resamples for each interval.
        combination: The combination that does at strength 1 what the bridge did; None without a bridge, or if the
            bridge does not have exactly one steering with a constant strength.
        measured: The results of every contender.
        differences: The differences between the bridge and each other contender, for every metric.
        classes: Bits by class of token.
        samples: A few items with the texts of all contenders.
        config: The description of the evaluation: models and data by digest, and settings.
    """

    base: str
    value: str
    data: str
    items: int
    templates: int
    answered: int
    chosen: int
    seed: int
    resamples: int
    combination: dict[str, Any] | None
    measured: list[Measured]
    differences: list[Difference]
    classes: list[ClassBits]
    samples: list[Sample]
    config: dict[str, Any]

    @property
    def title(self) -> str:
        """The title of the table, on one line."""
        return (
            f"{self.value} on {self.base}: {self.items} items of {self.data}, greedy; 95% intervals, "
            f"{self.templates} groups of items resampled (seed {self.seed})"
        )

    @property
    def header(self) -> tuple[str, ...]:
        """The column names of `rows`."""
        return (
            "",
            f"{BITS.name}, {self.items} items",
            *([f"{ANSWERS.name}, {self.answered} items"] if self.answered else []),
            *([f"{CHOICES.name}, {self.chosen} items"] if self.chosen else []),
            "ms a token",
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Return the main table: every contender, then every difference, then the recovered gaps."""
        rows = []
        for contender in self.measured:
            cells = [contender.bits_per_byte.text(3) if contender.bits_per_byte else "-"]
            shares = [(self.answered, contender.accuracy), (self.chosen, contender.choice_accuracy)]
            cells += [f"{share.text(0, 100)} %" if share else "-" for items, share in shares if items]
            rows.append((contender.name, *cells, "-" if contender.token_ms is None else f"{contender.token_ms:.0f}"))
        columns = [BITS.name, *([ANSWERS.name] if self.answered else []), *([CHOICES.name] if self.chosen else [])]
        for other in dict.fromkeys(difference.against for difference in self.differences):
            by_metric = {
                difference.metric: difference for difference in self.differences if difference.against == other
            }
            cells = [_difference(by_metric.get(name)) for name in columns]
            rows.append((f"bridge against {other}", *cells, ""))
        ends = (label_of(Contender.BASE), label_of(Contender.CEILING))
        rows += [
            (f"gap recovered by {contender.name}", f"{contender.gap_recovered.text(0, 100)} %", *[""] * len(columns))
            for contender in self.measured
            if contender.gap_recovered is not None and contender.name not in ends
        ]
        return rows

    COSTS = ("", "changed tokens", "ms to the first token", "ms a token", "peak MB", "setting")
    """The column names of `costs`."""

    def costs(self) -> list[tuple[str, ...]]:
        """Return the table of costs: changed tokens, time, memory and setting of every contender."""
        return [
            (
                contender.name,
                "-" if contender.changed_tokens is None else f"{contender.changed_tokens:.0%}",
                "-" if contender.first_token_ms is None else f"{contender.first_token_ms:.0f}",
                "-" if contender.token_ms is None else f"{contender.token_ms:.0f}",
                "-" if contender.peak_mb is None else f"{contender.peak_mb:,.0f}",
                _setting_summary(contender),
            )
            for contender in self.measured
        ]

    def by_alpha(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the table of losses by strength: bits a token on the validation items with the chosen combination.

        Returns:
            The column names, and a row for each contender whose loss at several strengths is known.
        """
        settings = {contender.name: contender.setting or {} for contender in self.measured}
        losses = {name: setting["by_alpha"] for name, setting in settings.items() if "by_alpha" in setting}
        alphas = sorted({loss["alpha"] for row in losses.values() for loss in row})
        rows = []
        for name, row in losses.items():
            bits = {loss["alpha"]: loss["bits"] for loss in row}
            rows.append((name, *(f"{bits[alpha]:.3f}" if alpha in bits else "-" for alpha in alphas)))
        return ("alpha", *(f"{alpha:g}" for alpha in alphas)), rows

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form, which docs/reference/evaluation.schema.json describes."""
        return asdict(self)

    def save(self, path: Path) -> None:
        """Write the JSON form.

        Raises:
            VocabridgeError: The file cannot be written.
        """
        write_atomically(path, (json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n").encode())


def summarize(
    base: str,
    value: str,
    data: str,
    task: Task,
    run: RunStore,
    contenders: Sequence[Contender],
    config: Mapping[str, Any],
) -> Evaluation:
    """Compute the results of some contenders from the records of a run.

    Args:
        base: Name of the base model.
        value: Name of the value source.
        data: Name of the test file.
        task: The test items.
        run: The records, none of which is missing.
        contenders: The contenders, in the order of the tables.
        config: The description of the evaluation.
    """
    labels, bridge = [*map(label_of, contenders)], label_of(Contender.BRIDGE)
    others = [label for label in labels if label != bridge] if bridge in labels else []
    differences = [
        Difference(other, metric.name, metric.relative, interval)
        for other in others
        for metric in METRICS
        if (interval := metric.difference(task, run, bridge, other)) is not None
    ]
    setting = run.get(bridge, "setting") if bridge in labels else None
    combination = None if setting is None else BridgeSetting.from_dict(setting).combination
    return Evaluation(
        base=base,
        value=value,
        data=data,
        items=len(task.items),
        templates=len({example.template for example in task.examples}),
        answered=_counted(ANSWERS, task, run, labels),
        chosen=_counted(CHOICES, task, run, labels),
        seed=SEED,
        resamples=RESAMPLES,
        combination=None if combination is None else combination.as_dict(),
        measured=[_measured(task, run, contender) for contender in contenders],
        differences=differences,
        classes=bits_by_class(task, run, labels),
        samples=[_sample(task, run, labels, item) for item in range(min(SHOWN, len(task.items)))],
        config=json.loads(json.dumps(config)),
    )


def _counted(metric: Metric, task: Task, run: RunStore, labels: Sequence[str]) -> int:
    """Return the number of items over which a metric was computed."""
    column = metric.column(task, run, labels[0])
    return 0 if column is None else len(column.items)


def _measured(task: Task, run: RunStore, contender: Contender) -> Measured:
    definition, base = CONTENDERS[contender], label_of(Contender.BASE)
    name = definition.label
    cost = run.get(name, "cost") or {}
    setting = run.get(name, "setting")
    record_key = ("contender", "part", "item")
    return Measured(
        name=name,
        bits_per_byte=BITS.value(task, run, name),
        accuracy=ANSWERS.value(task, run, name),
        choice_accuracy=CHOICES.value(task, run, name),
        gap_recovered=gap_recovered(task, run, name, base, label_of(Contender.CEILING)),
        changed_tokens=changed_tokens(task, run, name, base) if definition.has_base_tokens else None,
        first_token_ms=cost.get("first_ms"),
        token_ms=cost.get("token_ms"),
        peak_mb=cost.get("peak_mb"),
        setting=None if setting is None else {key: value for key, value in setting.items() if key not in record_key},
    )


def _sample(task: Task, run: RunStore, labels: Sequence[str], item: int) -> Sample:
    example = task.examples[item]
    generations = {name: run.get(name, "writing", item) for name in labels}
    readings = {name: run.get(name, "reading", item) or {} for name in labels}
    return Sample(
        prompt=example.prompt,
        reference=example.response,
        generations={name: row["text"] for name, row in generations.items() if row is not None},
        readings={
            name: {key: row[key] for key in ("bits", "ends", "most_likely")} for name, row in readings.items() if row
        },
    )


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    interval = difference.difference
    return f"{interval.text(1, 100)} %" if difference.relative else f"{interval.text(0, 100)} points"


def _setting_summary(contender: Measured) -> str:
    if contender.setting is None:
        return ""
    (definition,) = (definition for definition in CONTENDERS.values() if definition.label == contender.name)
    return definition.setting_type.from_dict(contender.setting).summary
