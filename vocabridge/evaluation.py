"""What a bridge is worth: the base, the donor alone, the bridge and the ceiling on the same held-out responses.

Two measures. Bits per byte of the responses, teacher-forced: -log2 of the probability of the response's tokens,
over the response's bytes, which makes vocabularies comparable. Accuracy of the final answers, greedy. Every figure
comes with a 95% interval from resampling the items (whole templates, where items share one).

The donor alone is read in its *own* vocabulary, where it is at its best. The weights are fitted on validation
items; the test items are seen once.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from vocabridge.alignment import VocabridgeError, Vocabulary, write_whole
from vocabridge.answers import is_complete, is_correct
from vocabridge.bridge import Bridge
from vocabridge.combination import Carry, Combination
from vocabridge.examples import Example, load_examples, tokenize
from vocabridge.fitting import Fit, fit_combination
from vocabridge.loading import build_bridge
from vocabridge.models import LoadedModel, load_model
from vocabridge.projection import Projection
from vocabridge.reader import begin_tokens
from vocabridge.value_network import CONFIG, ContrastPair, ResidualValueNetwork, ValueSource, load_value_network

Progress = Callable[[int, int, str], None]
_RESAMPLES = 4_000
_BATCH = 17  # answers generated at once
_LONGEST_ANSWER = 256  # tokens


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    def text(self, digits: int, scale: float = 1.0) -> str:
        """For people: 0.561 (0.540 to 0.583)."""
        value, low, high = (f"{scale * number:.{digits}f}" for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"


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
    progress: Progress = lambda done, total, what: None,
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
        bridge.combination = fits[0].combination

    contestants = _contestants(bridge, base)
    if ceiling is not None:
        contestants.append(_ceiling(ceiling, device))
    asked = [example for example in examples if example.answer is not None][:answers]
    measured, bits, texts = [], {}, {}
    for contestant in contestants:
        bits[contestant.name] = _response_bits(contestant, examples, progress)
        texts[contestant.name] = _generations(contestant, asked, progress)
        correct = np.array(
            [is_correct(text, e.answer or "") for text, e in zip(texts[contestant.name], asked, strict=True)],
            float,
        )
        measured.append(
            Measured(
                name=contestant.name,
                bits_per_byte=_ratio(bits[contestant.name], _sizes(examples), examples),
                accuracy=_ratio(correct, np.ones_like(correct), asked) if asked else None,
                milliseconds_per_token=_latency(contestant, examples[0]),
            )
        )
    against = {
        name: _ratio(bits["bridge"], bits[name], examples, lambda ratio: ratio - 1) for name in ("donor alone", "base")
    }
    recovered = None
    if ceiling is not None and (bits["ceiling"] != bits["base"]).all():
        recovered = _ratio(bits["bridge"] - bits["base"], bits["ceiling"] - bits["base"], examples)
    return Evaluation(
        base=base,
        value=bridge.source.name,
        data=data.name,
        items=len(examples),
        answered=len(asked),
        combination=bridge.combination,
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


@dataclass(frozen=True)
class _Contestant:
    """Something to measure.

    Attributes:
        name: For the table.
        model: Generates, as a causal language model.
        vocabulary: Of the model.
        logits: Teacher-forced: ids (1, n) and k to the logits of the last k positions, (k, |V|).
    """

    name: str
    model: PreTrainedModel
    vocabulary: Vocabulary
    logits: Callable[[Tensor, int], Tensor]


def _contestants(bridge: Bridge, base: str) -> list[_Contestant]:
    loaded = LoadedModel(base, "", bridge.base, bridge.vocabulary)
    return [
        _Contestant("base", *_of_model(loaded)),
        _of_source("donor alone", bridge.source),
        _Contestant("bridge", *_of_model(LoadedModel(base, "", bridge, bridge.vocabulary))),
    ]


def _of_model(loaded: LoadedModel) -> tuple[PreTrainedModel, Vocabulary, Callable[[Tensor, int], Tensor]]:
    def logits(ids: Tensor, keep: int) -> Tensor:
        return loaded.model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits[0]

    return loaded.model, loaded.vocabulary, logits


def _of_source(name: str, source: ValueSource) -> _Contestant:
    return _Contestant(name, donor(source), source.vocabulary, _donor_logits(source))


def _ceiling(name: str, device: str) -> _Contestant:
    if (Path(name) / CONFIG).is_file():
        return _of_source("ceiling", load_value_network(Path(name), device=device))
    return _Contestant("ceiling", *_of_model(load_model(name, device=device)))


def donor(source: ValueSource) -> PreTrainedModel:
    """The donor alone as a causal language model: the tuned model of a pair, or a base with its value network."""
    if isinstance(source, ContrastPair):
        return source.tuned
    assert isinstance(source, ResidualValueNetwork)
    small = LoadedModel("", "", source.base, source.vocabulary)
    return Bridge(small, source, Projection.identity(source.vocabulary.size), Combination(Carry.LINEAR))


def _donor_logits(source: ValueSource) -> Callable[[Tensor, int], Tensor]:
    def logits(ids: Tensor, keep: int) -> Tensor:
        outputs = {
            name: source.models[name](input_ids=ids, use_cache=False, logits_to_keep=keep).logits[0].float()
            for name in source.needed(tuned=True)
        }
        tuned = source.scores(outputs).tuned
        assert tuned is not None
        return tuned

    return logits


@torch.no_grad()
def _response_bits(contestant: _Contestant, examples: Sequence[Example], progress: Progress) -> np.ndarray:
    """Bits of every response, (items,)."""
    bits = []
    for number, example in enumerate(examples, start=1):
        tokens = tokenize(example, contestant.vocabulary)
        ids = torch.tensor([tokens.ids], device=contestant.model.device)
        truth = ids[0, tokens.first :]
        scores = contestant.logits(ids[:, :-1], len(truth)).float()
        bits.append(torch.nn.functional.cross_entropy(scores, truth, reduction="sum").item() / math.log(2))
        progress(number, len(examples), f"{contestant.name}: reading responses")
    return np.array(bits)


class _Answered(StoppingCriteria):
    """Stops a row when its final answer is complete."""

    def __init__(self, vocabulary: Vocabulary, prompt: int) -> None:
        self.vocabulary = vocabulary
        self.prompt = prompt

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        rows = input_ids[:, self.prompt :].tolist()
        return torch.tensor([is_complete(_text(self.vocabulary, row)) for row in rows], device=input_ids.device)


@torch.no_grad()
def _generations(contestant: _Contestant, examples: Sequence[Example], progress: Progress) -> list[str]:
    """Greedy continuations of the prompts, batches of prompts of like length."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt))
    texts = [""] * len(examples)
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        new = _generate(contestant, [examples[i].prompt for i in chosen], longest=_LONGEST_ANSWER, to_answer=True)
        for i, ids in zip(chosen, new, strict=True):
            texts[i] = _text(contestant.vocabulary, ids)
        progress(start + len(chosen), len(order), f"{contestant.name}: writing answers")
    return texts


def _generate(contestant: _Contestant, prompts: Sequence[str], *, longest: int, to_answer: bool) -> list[list[int]]:
    """New ids of every prompt, cut at the end token; up to `longest`, or exactly that many if not to the answer."""
    vocabulary = contestant.vocabulary
    rows = [begin_tokens(vocabulary) + encoding.ids.tolist() for encoding in vocabulary.encode_batch(prompts)]
    width = max(map(len, rows))
    pad = vocabulary.roles.get("pad", vocabulary.roles.get("end", 0))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    end = vocabulary.roles.get("end") if to_answer else None
    config = GenerationConfig(max_new_tokens=longest, do_sample=False, eos_token_id=end, pad_token_id=pad)
    device = contestant.model.device
    output = contestant.model.generate(  # type: ignore[operator]  # the mixin is in every causal LM
        ids.to(device),
        attention_mask=mask.to(device),
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([_Answered(vocabulary, width)] if to_answer else []),
    )
    new = output[:, width:].tolist()
    return [row[: row.index(end)] if end in row else row for row in new]


def _latency(contestant: _Contestant, example: Example) -> float:
    """Milliseconds a token of greedy generation, one text: the difference of 33 and 1 tokens, so without the prompt."""

    def seconds(tokens: int) -> float:
        started = time.perf_counter()
        _generate(contestant, [example.prompt], longest=tokens, to_answer=False)
        return time.perf_counter() - started

    seconds(1)
    return 1000 * (seconds(33) - seconds(1)) / 32


def _text(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    return b"".join(vocabulary.token_bytes[i] or b"" for i in ids).decode(errors="replace")


def _sizes(examples: Sequence[Example]) -> np.ndarray:
    """Bytes of every response, (items,)."""
    return np.array([len(example.response.encode()) for example in examples], float)


def _ratio(
    above: np.ndarray,
    below: np.ndarray,
    examples: Sequence[Example],
    change: Callable[[np.ndarray], np.ndarray] = lambda ratio: ratio,
) -> Interval:
    """Sum over sum, with a percentile interval from resampling templates with replacement."""
    names = sorted({example.template for example in examples})
    member = np.array([[example.template == name for example in examples] for name in names], float)
    sums = np.stack([member @ above, member @ below])
    draws = np.random.default_rng(0).integers(len(names), size=(_RESAMPLES, len(names)))
    resampled = sums[:, draws].sum(-1)
    low, high = np.percentile(change(resampled[0] / resampled[1]), [2.5, 97.5])
    return Interval(float(change(above.sum() / below.sum())), float(low), float(high))
