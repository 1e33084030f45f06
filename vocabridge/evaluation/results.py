"""What an evaluation found, made of the records of a run alone: figures with their intervals, as tables and as JSON."""

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
from vocabridge.evaluation.run_store import Run
from vocabridge.evaluation.tasks import Task
from vocabridge.evaluation.token_classes import ClassBits, bits_by_class
from vocabridge.options import Contender

SHOWN = 3
"""So many items are shown with their texts."""


@dataclass(frozen=True)
class Measured:
    """What one contender did; None where that was not asked or cannot be.

    Attributes:
        name: The contender.
        bits_per_byte: Of the responses, teacher-forced.
        accuracy: Share of right final answers.
        choice_accuracy: Share of items whose right choice is the likeliest.
        gap_recovered: (base - it) / (base - ceiling) in bits per byte.
        changed_tokens: Share of the response's tokens at which its likeliest one is not the base's.
        first_token_ms: Milliseconds to the first token of a text, the prompt among it.
        token_ms: Milliseconds for each further one.
        peak_mb: Megabytes that the process held at most while it wrote.
        setting: What was chosen on the validation items, or given.
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
    """The bridge against another contender.

    Attributes:
        against: The other.
        metric: Of what.
        relative: Whether it is a share of the other's; else a difference of shares.
        difference: The bridge's less the other's; paired.
    """

    against: str
    metric: str
    relative: bool
    difference: Interval


@dataclass(frozen=True)
class Sample:
    """One item and what every contender makes of it.

    Attributes:
        prompt: The prompt.
        reference: The response of the data.
        generations: What each wrote; none where nobody was asked to.
        readings: How each read the reference: `bits`, `ends` and `likeliest` of each of its tokens.
    """

    prompt: str
    reference: str
    generations: dict[str, str]
    readings: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """A cross-family transfer evaluation.

    Attributes:
        base: The base model by name.
        value: The value source by name.
        data: The test file.
        items: Number of test items.
        templates: Number of groups of them that are resampled together.
        answered: Number of items whose answers were asked.
        chosen: Number of multiple choices.
        seed: Of the resampling and the fit. Nothing else is random.
        resamples: Of each interval.
        combination: What the bridge used, as it has to be at strength 1 to do the same; None without a bridge, or where
            it has not one steering of one strength.
        measured: Every contender.
        differences: The bridge against each other contender, for every metric.
        classes: Bits by class of token.
        samples: A few items side by side.
        config: What was measured, by digests.
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
        """One line for people."""
        return (
            f"{self.value} on {self.base}: {self.items} items of {self.data}, greedy; 95% intervals, "
            f"{self.templates} groups of items resampled (seed {self.seed})"
        )

    @property
    def header(self) -> tuple[str, ...]:
        """Column names of `rows`."""
        return (
            "",
            f"{BITS.name}, {self.items} items",
            *([f"{ANSWERS.name}, {self.answered} items"] if self.answered else []),
            *([f"{CHOICES.name}, {self.chosen} items"] if self.chosen else []),
            "ms a token",
        )

    def rows(self) -> list[tuple[str, ...]]:
        """The table for people: every contender, then every difference."""
        rows = []
        for one in self.measured:
            cells = [one.bits_per_byte.text(3) if one.bits_per_byte else "-"]
            shares = [(self.answered, one.accuracy), (self.chosen, one.choice_accuracy)]
            cells += [f"{share.text(0, 100)} %" if share else "-" for asked, share in shares if asked]
            rows.append((one.name, *cells, "-" if one.token_ms is None else f"{one.token_ms:.0f}"))
        columns = [BITS.name, *([ANSWERS.name] if self.answered else []), *([CHOICES.name] if self.chosen else [])]
        for other in dict.fromkeys(one.against for one in self.differences):
            found = {one.metric: one for one in self.differences if one.against == other}
            cells = [_difference(found.get(name)) for name in columns]
            rows.append((f"bridge against {other}", *cells, ""))
        ends = (label_of(Contender.BASE), label_of(Contender.CEILING))
        rows += [
            (f"gap recovered by {one.name}", f"{one.gap_recovered.text(0, 100)} %", *[""] * len(columns))
            for one in self.measured
            if one.gap_recovered is not None and one.name not in ends
        ]
        return rows

    COSTS = ("", "changed tokens", "ms to the first token", "ms a token", "peak MB", "set to")
    """Column names of `costs`."""

    def costs(self) -> list[tuple[str, ...]]:
        """What each contender costs, how much it changes, and what was chosen for it."""
        return [
            (
                one.name,
                "-" if one.changed_tokens is None else f"{one.changed_tokens:.0%}",
                "-" if one.first_token_ms is None else f"{one.first_token_ms:.0f}",
                "-" if one.token_ms is None else f"{one.token_ms:.0f}",
                "-" if one.peak_mb is None else f"{one.peak_mb:,.0f}",
                _set_to(one),
            )
            for one in self.measured
        ]

    def by_alpha(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """What each contender's combination costs on the validation items, in bits a token, by its strength alpha.

        Returns:
            Column names, and a row for each contender of which that is known.
        """
        settings = {one.name: one.setting or {} for one in self.measured}
        known = {name: setting["by_alpha"] for name, setting in settings.items() if "by_alpha" in setting}
        alphas = sorted({at["alpha"] for found in known.values() for at in found})
        rows = []
        for name, found in known.items():
            bits = {at["alpha"]: at["bits"] for at in found}
            rows.append((name, *(f"{bits[alpha]:.3f}" if alpha in bits else "-" for alpha in alphas)))
        return ("alpha", *(f"{alpha:g}" for alpha in alphas)), rows

    def as_dict(self) -> dict[str, Any]:
        """Its JSON form; docs/reference/evaluation.schema.json describes it."""
        return asdict(self)

    def save(self, path: Path) -> None:
        """Writes the JSON form.

        Raises:
            VocabridgeError: The file cannot be written.
        """
        write_atomically(path, (json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n").encode())


def summarize(
    base: str, value: str, data: str, task: Task, run: Run, contenders: Sequence[Contender], config: Mapping[str, Any]
) -> Evaluation:
    """Sum up what a run has measured of some contenders.

    Args:
        base: The base model by name.
        value: The value source by name.
        data: The test file by name.
        task: The test items.
        run: The records, all of them there.
        contenders: In the order of the tables.
        config: What was measured.
    """
    labels, bridge = [*map(label_of, contenders)], label_of(Contender.BRIDGE)
    others = [label for label in labels if label != bridge] if bridge in labels else []
    differences = [
        Difference(other, metric.name, metric.relative, found)
        for other in others
        for metric in METRICS
        if (found := metric.difference(task, run, bridge, other)) is not None
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


def _counted(metric: Metric, task: Task, run: Run, labels: Sequence[str]) -> int:
    column = metric.of(task, run, labels[0])
    return 0 if column is None else len(column.items)


def _measured(task: Task, run: Run, contender: Contender) -> Measured:
    definition, base = CONTENDERS[contender], label_of(Contender.BASE)
    name = definition.label
    cost = run.get(name, "cost") or {}
    setting = run.get(name, "setting")
    known = ("contender", "part", "item")
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
        setting=None if setting is None else {key: v for key, v in setting.items() if key not in known},
    )


def _sample(task: Task, run: Run, labels: Sequence[str], item: int) -> Sample:
    example = task.examples[item]
    written = {name: run.get(name, "writing", item) for name in labels}
    readings = {name: run.get(name, "reading", item) or {} for name in labels}
    return Sample(
        prompt=example.prompt,
        reference=example.response,
        generations={name: row["text"] for name, row in written.items() if row is not None},
        readings={
            name: {key: row[key] for key in ("bits", "ends", "likeliest")} for name, row in readings.items() if row
        },
    )


def _difference(one: Difference | None) -> str:
    if one is None:
        return "-"
    return f"{one.difference.text(1, 100)} %" if one.relative else f"{one.difference.text(0, 100)} points"


def _set_to(one: Measured) -> str:
    """Return the setting of a contender in a few words."""
    if one.setting is None:
        return ""
    (definition,) = (definition for definition in CONTENDERS.values() if definition.label == one.name)
    return definition.setting_type.from_dict(one.setting).summary
