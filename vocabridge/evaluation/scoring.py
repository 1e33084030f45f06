"""Contenders of an evaluation: what reads a response, and continues a prompt greedily.

Most are causal language models and do it token by token (`TokenLevelModel`): the base, a bridge, a donor in a
vocabulary of its own. A byte-level bridge does it byte by byte (`ByteLevelModel`).
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
from vocabridge.bridge.model import Bridge
from vocabridge.bridge.steering import Steering
from vocabridge.bridge.streaming import stream
from vocabridge.byte_level.byte_bridge import ByteLevelBridge
from vocabridge.evaluation.answers import Extractor
from vocabridge.models.end_tokens import end_tokens
from vocabridge.models.examples import Example, tokenize_scored
from vocabridge.models.expert_pair import ExpertPair
from vocabridge.models.joint_forward import run
from vocabridge.models.loading import LoadedModel
from vocabridge.models.prompts import left_padded, padding, prompt_ids
from vocabridge.models.value_network import ValueNetwork
from vocabridge.models.value_source import ValueSource
from vocabridge.options import BoundaryPolicy, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.projection import Projection


@dataclass(frozen=True)
class EvaluatedModel(ABC):
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
class TokenLevelModel(EvaluatedModel):
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
        """See `EvaluatedModel.device`."""
        return self.model.device

    @torch.no_grad()
    def read(self, example: Example) -> dict[str, Any]:
        """See `EvaluatedModel.read`; by tokens."""
        vocabulary = self.vocabulary
        tokens = tokenize_scored(example, vocabulary)
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
        """See `EvaluatedModel.write`; all at once, and without an extractor exactly `longest` tokens."""
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
class ByteLevelModel(EvaluatedModel):
    """A byte-level bridge.

    Attributes:
        bridge: The bridge.
    """

    bridge: ByteLevelBridge

    @property
    def device(self) -> torch.device:
        """See `EvaluatedModel.device`."""
        return self.bridge.loaded.model.device

    def read(self, example: Example) -> dict[str, Any]:
        """See `EvaluatedModel.read`; by bytes, as `ByteLevelBridge.bits` adds them up."""
        text, vocabulary = self.bridge.text(self.bridge.vocabulary.pieces(example.prompt)), self.bridge.vocabulary
        symbols, response = self.bridge.base.control_ids.tolist(), example.response.encode()
        bits, likeliest = [], []
        for byte in response:
            p = text.next().p
            bits.append(-math.log2(max(float(p[byte]), np.finfo(np.float64).tiny)))
            best = int(p.argmax())
            likeliest.append(_legible(bytes([best])) if best < 256 else _token_text(vocabulary, symbols[best - 256]))
            text = text.after(bytes([byte]))
        return {"bits": bits, "ends": [*range(1, len(response) + 1)], "likeliest": likeliest}

    def write(self, prompts: Sequence[str], longest: int, extractor: Extractor | None) -> list[dict[str, Any]]:
        """See `EvaluatedModel.write`; one after the other."""
        return [self._written(prompt, longest, extractor) for prompt in prompts]

    def _written(self, prompt: str, longest: int, extractor: Extractor | None) -> dict[str, Any]:
        writing, text = stream(self.bridge, prompt, max_new_tokens=longest), ""
        for piece in writing:
            text += piece
            if extractor is not None and extractor.is_complete(text):
                break
        return {"text": text, "tokens": writing.tokens}


def of_model(name: str, model: PreTrainedModel, vocabulary: Vocabulary) -> EvaluatedModel:
    """A model as it is, a bridge among them."""

    def logits(ids: Tensor, keep: int) -> Tensor:
        return model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits[0]

    return TokenLevelModel(name, model, vocabulary, logits)


def of_source(name: str, source: ValueSource) -> EvaluatedModel:
    """A donor alone, read in its own vocabulary."""
    if isinstance(source, ExpertPair):
        return of_model(name, source.tuned, source.tuned_vocabulary)
    return TokenLevelModel(name, donor(source), source.vocabulary, _donor_logits(source))


def donor(source: ValueSource) -> PreTrainedModel:
    """The donor alone as a causal language model: the tuned model of a pair, or a base with its value network."""
    if isinstance(source, ExpertPair):
        return source.tuned
    assert isinstance(source, ValueNetwork)
    return Bridge(LoadedModel("", "", source.source_model, source.vocabulary), [in_one_vocabulary(source)])


def in_one_vocabulary(source: ValueSource) -> Steering:
    """A value source over a model that has its own vocabulary: logits are added, and nothing is projected."""
    return Steering(
        source,
        source.vocabulary,
        Projection.identity(source.vocabulary.size),
        Combination(ProjectionMethod.LINEAR),
        policy=BoundaryPolicy.AS_IS,
    )


def _donor_logits(source: ValueSource) -> Callable[[Tensor, int], Tensor]:
    def logits(ids: Tensor, keep: int) -> Tensor:
        models = {name: source.models[name] for name in source.required_models({"tuned"})}
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
