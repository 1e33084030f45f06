"""A contestant of an evaluation, and what is measured of it: bits of responses, greedy answers, time a token."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from vocabridge.alignment import Vocabulary
from vocabridge.answers import is_complete
from vocabridge.batch import left_padded, padding, prompt_ids
from vocabridge.bridge import Bridge
from vocabridge.combination import Carry, Combination
from vocabridge.connection import run
from vocabridge.examples import Example, tokenize
from vocabridge.models import LoadedModel
from vocabridge.policy import Policy
from vocabridge.progress import Progress
from vocabridge.projection import Projection
from vocabridge.steering import Steering
from vocabridge.value_source import ContrastPair, ResidualValueNetwork, ValueSource

_BATCH = 17  # answers generated at once
_LONGEST_ANSWER = 96  # tokens; three in four of the sample task's responses are shorter


@dataclass(frozen=True)
class Contestant:
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


def of_model(name: str, model: PreTrainedModel, vocabulary: Vocabulary) -> Contestant:
    """A model as it is, a bridge among them."""

    def logits(ids: Tensor, keep: int) -> Tensor:
        return model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits[0]

    return Contestant(name, model, vocabulary, logits)


def of_source(name: str, source: ValueSource) -> Contestant:
    """A donor alone, read in its own vocabulary."""
    return Contestant(name, donor(source), source.vocabulary, _donor_logits(source))


def donor(source: ValueSource) -> PreTrainedModel:
    """The donor alone as a causal language model: the tuned model of a pair, or a base with its value network."""
    if isinstance(source, ContrastPair):
        return source.tuned
    assert isinstance(source, ResidualValueNetwork)
    small = LoadedModel("", "", source.base, source.vocabulary)
    vocabulary = source.vocabulary
    own = Steering(
        source,
        vocabulary,
        Projection.identity(vocabulary.size),
        Combination(Carry.LINEAR),
        policy=Policy.RETOKENIZE,
    )
    return Bridge(small, [own])


def _donor_logits(source: ValueSource) -> Callable[[Tensor, int], Tensor]:
    def logits(ids: Tensor, keep: int) -> Tensor:
        models = {name: source.models[name] for name in source.needed(tuned=True)}
        said = run(models, lambda _name: {"input_ids": ids, "use_cache": False}, keep)
        tuned = source.scores({name: logits[0].float() for name, logits in said.items()}).tuned
        assert tuned is not None
        return tuned

    return logits


@torch.no_grad()
def response_bits(contestant: Contestant, examples: Sequence[Example], progress: Progress) -> np.ndarray:
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
def generations(contestant: Contestant, examples: Sequence[Example], progress: Progress) -> list[str]:
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


def _generate(contestant: Contestant, prompts: Sequence[str], *, longest: int, to_answer: bool) -> list[list[int]]:
    """New ids of every prompt, cut at the end token; up to `longest`, or exactly that many if not to the answer."""
    vocabulary = contestant.vocabulary
    pad = padding(vocabulary)
    batch = left_padded([prompt_ids(vocabulary, prompt) for prompt in prompts], pad, contestant.model.device)
    width = batch["input_ids"].shape[1]
    end = vocabulary.roles.get("end") if to_answer else None
    config = GenerationConfig(max_new_tokens=longest, do_sample=False, eos_token_id=end, pad_token_id=pad)
    output = contestant.model.generate(  # type: ignore[operator]  # the mixin is in every causal LM
        **batch,
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([_Answered(vocabulary, width)] if to_answer else []),
    )
    new = output[:, width:].tolist()
    return [row[: row.index(end)] if end in row else row for row in new]


def latency(contestant: Contestant, example: Example) -> float:
    """Milliseconds a token of greedy generation, one text: 17 tokens less the first, so without the prompt."""

    def seconds(tokens: int) -> float:
        started = time.perf_counter()
        _generate(contestant, [example.prompt], longest=tokens, to_answer=False)
        return time.perf_counter() - started

    seconds(1)
    return 1000 * (seconds(17) - seconds(1)) / 16


def _text(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    return b"".join(vocabulary.token_bytes[i] or b"" for i in ids).decode(errors="replace")
