"""What a bridge is worth: the base, the donor alone, the bridge and the ceiling on the same held-out responses.

Two measures. Bits per byte of the responses, teacher-forced: -log2 of the probability of the response's tokens,
over the response's bytes, which makes vocabularies comparable. Accuracy of the final answers, greedy. Every figure
comes with a 95% interval from resampling the items (whole templates, where items share one).

The donor alone is read in its *own* vocabulary, where it is at its best. The weights are fitted on validation
items; the test items are seen once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vocabridge.alignment import VocabridgeError, write_whole
from vocabridge.answers import is_correct
from vocabridge.bridge import Bridge
from vocabridge.combination import Combination
from vocabridge.contestants import Contestant, generations, latency, of_model, of_source, response_bits
from vocabridge.examples import Example, load_examples
from vocabridge.fitting import Fit, fit_combination
from vocabridge.intervals import Interval, ratio
from vocabridge.loading import build_bridge
from vocabridge.models import load_model
from vocabridge.progress import Progress, unheard
from vocabridge.value_network import CONFIG, load_value_network


@dataclass(frozen=True)
class Measured:
    """What one contestant did.

    Attributes:
        name: "base", "donor alone", "bridge" or "ceiling".
        bits_per_byte: Of the responses, teacher-forced.
        accuracy: Share of right final answers, greedy; None where the items have no answers or none were asked.
        milliseconds_per_token: Of greedy generation, one text at a time.
    """

    name: str
    bits_per_byte: Interval
    accuracy: Interval | None
    milliseconds_per_token: float


@dataclass(frozen=True)
class Sample:
    """One prompt and what every contestant makes of it.

    Attributes:
        prompt: The prompt.
        reference: The response of the data.
        generations: By contestant.
    """

    prompt: str
    reference: str
    generations: dict[str, str]


@dataclass(frozen=True)
class Evaluation:
    """A cross-family transfer evaluation.

    Attributes:
        base: The base model by name.
        value: The value source by name.
        data: The test file.
        items: Number of test items for bits per byte.
        answered: Number of them for accuracy.
        combination: What the bridge used.
        fits: All carries as fitted on the validation items, the best first; empty without any.
        measured: Every contestant.
        bridge_against_donor: Relative change of bits per byte, bridge over donor alone minus 1; paired.
        bridge_against_base: The same over the base.
        gap_recovered: (bridge - base) / (ceiling - base) in bits per byte; None without a ceiling that differs.
        samples: A few generations side by side.
        seconds: Wall time.
    """

    base: str
    value: str
    data: str
    items: int
    answered: int
    combination: Combination
    fits: list[Fit]
    measured: list[Measured]
    bridge_against_donor: Interval
    bridge_against_base: Interval
    gap_recovered: Interval | None
    samples: list[Sample]
    seconds: float

    @property
    def title(self) -> str:
        """One line for people."""
        return f"{self.value} on {self.base}: {self.items} items of {self.data}, 95% intervals"

    @property
    def header(self) -> tuple[str, ...]:
        """Column names of `rows`."""
        return ("", "bits per byte", f"accuracy %, {self.answered} items", "ms a token")

    def rows(self) -> list[tuple[str, ...]]:
        """The table for people."""
        rows: list[tuple[str, ...]] = [
            (
                one.name,
                one.bits_per_byte.text(3),
                one.accuracy.text(1, 100) if one.accuracy else "-",
                f"{one.milliseconds_per_token:.0f}",
            )
            for one in self.measured
        ]
        rows.append(("bridge against donor alone", f"{self.bridge_against_donor.text(1, 100)} %", "", ""))
        rows.append(("bridge against base", f"{self.bridge_against_base.text(1, 100)} %", "", ""))
        if self.gap_recovered:
            rows.append(("gap recovered", f"{self.gap_recovered.text(0, 100)} %", "", ""))
        return rows

    def as_dict(self) -> dict[str, object]:
        """Its JSON form."""
        return asdict(self) | {
            "combination": self.combination.as_dict(),
            "fits": [asdict(fit) | {"combination": fit.combination.as_dict()} for fit in self.fits],
        }

    def save(self, path: Path) -> None:
        """Writes the JSON form.

        Raises:
            VocabridgeError: The file cannot be written.
        """
        write_whole(path, (json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n").encode())


def evaluate(
    base: str,
    value: str,
    data: Path,
    *,
    untuned: str | None = None,
    alignment: Path | None = None,
    validation: Path | None = None,
    combination: Path | None = None,
    ceiling: str | None = None,
    limit: int | None = None,
    answers: int | None = None,
    device: str = "cpu",
    progress: Progress = unheard,
) -> Evaluation:
    """Measures a bridge beside the base, the donor alone and, if given, the ceiling.

    Args:
        base: The base model by name.
        value: A value network's folder; with `untuned`, the tuned model of a contrast pair.
        untuned: The untuned model of the pair.
        data: Test examples.
        alignment: As for `build_bridge`.
        validation: Examples on which the weights are fitted.
        combination: Saved weights; not together with `validation`.
        ceiling: The base model fine-tuned itself: a model by name, or a value network that was trained on it.
        limit: Take the first so many test items.
        answers: Ask for the final answers of so many items only; by default of all that have one.
        device: Where the models go.
        progress: Told of every step.

    Raises:
        VocabridgeError: Something cannot be read or does not fit, or test items stand in the validation file.
    """
    started = time.monotonic()
    if validation is not None and combination is not None:
        raise VocabridgeError("weights are either fitted (validation) or given (combination); leave one out")
    examples = load_examples(data, limit)
    held_out = load_examples(validation) if validation is not None else []
    if seen := {example.text for example in held_out} & {example.text for example in examples}:
        raise VocabridgeError(
            f"{len(seen)} of the test items in {data} stand in {validation} too; remove them from one"
        )
    bridge = build_bridge(base, value, untuned=untuned, alignment=alignment, combination=combination, device=device)
    fits = fit_combination(bridge, held_out, progress=progress) if held_out else []
    if fits:
        bridge.steering.combination = fits[0].combination

    contestants = _contestants(bridge)
    if ceiling is not None:
        contestants.append(_ceiling(ceiling, device))
    asked = [example for example in examples if example.answer is not None][:answers]
    measured, bits, texts = [], {}, {}
    for contestant in contestants:
        bits[contestant.name] = response_bits(contestant, examples, progress)
        texts[contestant.name] = generations(contestant, asked, progress)
        correct = np.array(
            [is_correct(text, e.answer or "") for text, e in zip(texts[contestant.name], asked, strict=True)],
            float,
        )
        measured.append(
            Measured(
                name=contestant.name,
                bits_per_byte=ratio(bits[contestant.name], _sizes(examples), examples),
                accuracy=ratio(correct, np.ones_like(correct), asked) if asked else None,
                milliseconds_per_token=latency(contestant, examples[0]),
            )
        )
    against = {
        name: ratio(bits["bridge"], bits[name], examples, lambda value: value - 1) for name in ("donor alone", "base")
    }
    recovered = None
    if ceiling is not None and (bits["ceiling"] != bits["base"]).all():
        recovered = ratio(bits["bridge"] - bits["base"], bits["ceiling"] - bits["base"], examples)
    return Evaluation(
        base=base,
        value=bridge.steering.source.name,
        data=data.name,
        items=len(examples),
        answered=len(asked),
        combination=bridge.steering.combination,
        fits=fits,
        measured=measured,
        bridge_against_donor=against["donor alone"],
        bridge_against_base=against["base"],
        gap_recovered=recovered,
        samples=[
            Sample(example.prompt, example.response, {name: texts[name][i] for name in texts})
            for i, example in enumerate(asked[:3])
        ],
        seconds=time.monotonic() - started,
    )


def _contestants(bridge: Bridge) -> list[Contestant]:
    return [
        of_model("base", bridge.base, bridge.vocabulary),
        of_source("donor alone", bridge.steering.source),
        of_model("bridge", bridge, bridge.vocabulary),
    ]


def _ceiling(name: str, device: str) -> Contestant:
    if (Path(name) / CONFIG).is_file():
        return of_source("ceiling", load_value_network(Path(name), device=device))
    loaded = load_model(name, device=device)
    return of_model("ceiling", loaded.model, loaded.vocabulary)


def _sizes(examples: Sequence[Example]) -> np.ndarray:
    """Bytes of every response, (items,)."""
    return np.array([len(example.response.encode()) for example in examples], float)
