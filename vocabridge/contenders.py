"""Contenders of an evaluation: what reads a response, and continues a prompt greedily.

Most are causal language models and do it token by token (`ByTokens`): the base, a bridge, a donor in a vocabulary of
its own. An exact bridge does it byte by byte (`ByBytes`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from vocabridge.alignment import Vocabulary
from vocabridge.answers import Extractor
from vocabridge.batch import left_padded, padding, prompt_ids
from vocabridge.bridge import Bridge
from vocabridge.combination import Carry, Combination
from vocabridge.connection import run
from vocabridge.end_tokens import end_tokens
from vocabridge.exact import ExactBridge
from vocabridge.examples import Example, tokenize
from vocabridge.models import LoadedModel
from vocabridge.policy import Policy
from vocabridge.projection import Projection
from vocabridge.steering import Steering
from vocabridge.streaming import stream
from vocabridge.value_source import ContrastPair, ValueNetwork, ValueSource


@dataclass(frozen=True)
class Contender(ABC):
    """Something to measure.

    Attributes:
        name: For tables and records.
    """

    name: str

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where its time and memory are spent."""

    @abstractmethod
    def read(self, example: Example) -> dict[str, Any]:
        """Reads a response: for each unit of it its bits, where it ends, and what the contender found likeliest.

        Returns:
            `bits`, -log2 p of each; `ends`, bytes of the response up to each unit's end; `likeliest`, as texts.
        """

    @abstractmethod
    def write(self, prompts: Sequence[str], longest: int, extractor: Extractor | None) -> list[dict[str, Any]]:
        """Continues prompts, greedily.

        Args:
            prompts: The prompts.
            longest: At most so many tokens, or about as many.
            extractor: Says when the final answer is complete, which ends a text, as an end token does. Without one
                the text need not end before.

        Returns:
            The `text` and its number of `tokens`, for each.
        """


@dataclass(frozen=True)
class ByTokens(Contender):
    """A causal language model.

    Attributes:
        model: Generates.
        vocabulary: Of the model.
        logits: Teacher-forced: ids (1, n) and k to the logits of the last k positions, (k, |V|).
    """

    model: PreTrainedModel
    vocabulary: Vocabulary
    logits: Callable[[Tensor, int], Tensor]

    @property
    def device(self) -> torch.device:
        """See `Contender.device`."""
        return self.model.device

    @torch.no_grad()
    def read(self, example: Example) -> dict[str, Any]:
        """See `Contender.read`; by tokens."""
        vocabulary = self.vocabulary
        tokens = tokenize(example, vocabulary)
        ids = torch.tensor([tokens.ids], device=self.device)
        truth = ids[0, tokens.first :]
        scores = self.logits(ids[:, :-1], len(truth)).float()
        nats = torch.nn.functional.cross_entropy(scores, truth, reduction="none")
        starts = vocabulary.encode_prompt(example.text).starts.tolist()[tokens.first - len(tokens.ids) :]
        ends = np.array([*starts[1:], len(example.text.encode())]) - len(example.prompt.encode())
        return {
            "bits": (nats / math.log(2)).tolist(),
            "ends": ends.tolist(),
            "likeliest": [_token_text(vocabulary, i) for i in scores.argmax(-1).tolist()],
        }

    @torch.no_grad()
    def write(self, prompts: Sequence[str], longest: int, extractor: Extractor | None) -> list[dict[str, Any]]:
        """See `Contender.write`; all at once, and without an extractor exactly `longest` tokens."""
        vocabulary = self.vocabulary
        pad = padding(vocabulary)
        batch = left_padded([prompt_ids(vocabulary, prompt) for prompt in prompts], pad, self.device)
        width = batch["input_ids"].shape[1]
        ends = end_tokens(vocabulary, self.model)
        config = GenerationConfig(
            max_new_tokens=longest,
            min_new_tokens=longest if extractor is None else None,
            do_sample=False,
            eos_token_id=list(ends) or None,
            pad_token_id=pad,
        )
        stops = [] if extractor is None else [_Answered(extractor, vocabulary, width)]
        output = self.model.generate(  # type: ignore[operator]  # the mixin is in every causal LM
            **batch, generation_config=config, stopping_criteria=StoppingCriteriaList(stops)
        )
        new = [list(takewhile(lambda i: i not in ends, row)) for row in output[:, width:].tolist()]
        return [{"text": _text_of(vocabulary, ids), "tokens": len(ids)} for ids in new]


class _Answered(StoppingCriteria):
    """Stops a row when its final answer is complete."""

    def __init__(self, extractor: Extractor, vocabulary: Vocabulary, prompt: int) -> None:
        self.extractor = extractor
        self.vocabulary = vocabulary
        self.prompt = prompt

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        rows = input_ids[:, self.prompt :].tolist()
        done = [self.extractor.is_complete(_text_of(self.vocabulary, row)) for row in rows]
        return torch.tensor(done, device=input_ids.device)


@dataclass(frozen=True)
class ByBytes(Contender):
    """An exact bridge.

    Attributes:
        bridge: The bridge.
    """

    bridge: ExactBridge

    @property
    def device(self) -> torch.device:
        """See `Contender.device`."""
        return self.bridge.loaded.model.device

    def read(self, example: Example) -> dict[str, Any]:
        """See `Contender.read`; by bytes, as `ExactBridge.bits` adds them up."""
        text, vocabulary = self.bridge.text(self.bridge.vocabulary.pieces(example.prompt)), self.bridge.vocabulary
        symbols, response = self.bridge.base.symbols.tolist(), example.response.encode()
        bits, likeliest = [], []
        for byte in response:
            p = text.next().p
            bits.append(-math.log2(max(float(p[byte]), np.finfo(np.float64).tiny)))
            best = int(p.argmax())
            likeliest.append(_legible(bytes([best])) if best < 256 else _token_text(vocabulary, symbols[best - 256]))
            text = text.after(bytes([byte]))
        return {"bits": bits, "ends": [*range(1, len(response) + 1)], "likeliest": likeliest}

    def write(self, prompts: Sequence[str], longest: int, extractor: Extractor | None) -> list[dict[str, Any]]:
        """See `Contender.write`; one after the other."""
        return [self._written(prompt, longest, extractor) for prompt in prompts]

    def _written(self, prompt: str, longest: int, extractor: Extractor | None) -> dict[str, Any]:
        writing, text = stream(self.bridge, prompt, max_new_tokens=longest), ""
        for piece in writing:
            text += piece
            if extractor is not None and extractor.is_complete(text):
                break
        return {"text": text, "tokens": writing.tokens}


def of_model(name: str, model: PreTrainedModel, vocabulary: Vocabulary) -> Contender:
    """A model as it is, a bridge among them."""

    def logits(ids: Tensor, keep: int) -> Tensor:
        return model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits[0]

    return ByTokens(name, model, vocabulary, logits)


def of_source(name: str, source: ValueSource) -> Contender:
    """A donor alone, read in its own vocabulary."""
    if isinstance(source, ContrastPair):
        return of_model(name, source.tuned, source.tuned_vocabulary)
    return ByTokens(name, donor(source), source.vocabulary, _donor_logits(source))


def donor(source: ValueSource) -> PreTrainedModel:
    """The donor alone as a causal language model: the tuned model of a pair, or a base with its value network."""
    if isinstance(source, ContrastPair):
        return source.tuned
    assert isinstance(source, ValueNetwork)
    return Bridge(LoadedModel("", "", source.base, source.vocabulary), [in_one_vocabulary(source)])


def in_one_vocabulary(source: ValueSource) -> Steering:
    """A value source over a model that has its own vocabulary: logits are added, and nothing is carried."""
    return Steering(
        source,
        source.vocabulary,
        Projection.identity(source.vocabulary.size),
        Combination(Carry.LINEAR),
        policy=Policy.RETOKENIZE,
    )


def _donor_logits(source: ValueSource) -> Callable[[Tensor, int], Tensor]:
    def logits(ids: Tensor, keep: int) -> Tensor:
        models = {name: source.models[name] for name in source.needed(tuned=True)}
        said = run(models, lambda _name: {"input_ids": ids, "use_cache": False}, keep)
        tuned = source.scores({name: logits[0].float() for name, logits in said.items()}).tuned
        assert tuned is not None
        return tuned

    return logits


def _text_of(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """The text of some tokens."""
    return b"".join(vocabulary.token_bytes[i] or b"" for i in ids).decode(errors="replace")


def _token_text(vocabulary: Vocabulary, i: int) -> str:
    """One token, legible, and different for different bytes; a control token is <id>."""
    data = vocabulary.token_bytes[i]
    return f"<{i}>" if data is None else _legible(data)


def _legible(data: bytes) -> str:
    """Bytes as text; what is no text is escaped."""
    return data.decode(errors="backslashreplace")
