"""Evaluated models: they score a response, teacher-forced, and continue a prompt greedily.

Most are causal language models over tokens (`TokenLevelModel`): the base, a bridge, or a donor in its own vocabulary.
A byte-level bridge works over bytes (`ByteLevelModel`).
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
from vocabridge.models.prompts import left_padded, pad_id, prompt_ids
from vocabridge.models.value_network import ValueNetwork
from vocabridge.models.value_source import ValueSource
from vocabridge.options import BoundaryPolicy, ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.projection import Projection


@dataclass(frozen=True)
class EvaluatedModel(ABC):
    """A model, or a combination of models, to measure.

    Attributes:
        name: The name in tables and records.
    """

    name: str

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device whose time and memory are measured."""

    @abstractmethod
    def score_response(self, example: Example) -> dict[str, Any]:
        """Score a response after its prompt, unit by unit; a unit is a token, or a byte of a byte-level model.

        Returns:
            `bits`: -log2 of the probability of each unit.
            `ends`: The byte offset in the response at which each unit ends.
            `most_likely`: The most likely unit at each position, as text.
        """

    @abstractmethod
    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, extractor: Extractor | None
    ) -> list[dict[str, Any]]:
        """Continue prompts greedily.

        Args:
            prompts: The prompts.
            max_new_tokens: Maximum number of tokens of a text.
            extractor: Ends a text when the final answer is complete; an end token ends it, too. If None, the text goes
                on to `max_new_tokens` where the model allows it, for timing.

        Returns:
            For each prompt the `text` and its number of `tokens`.
        """


@dataclass(frozen=True)
class TokenLevelModel(EvaluatedModel):
    """A causal language model.

    Attributes:
        model: The model that generates.
        vocabulary: The vocabulary of the model.
        logits: Returns teacher-forced logits: from ids (1, n) and k, those of the last k positions, (k, |V|).
    """

    model: PreTrainedModel
    vocabulary: Vocabulary
    logits: Callable[[Tensor, int], Tensor]

    @property
    def device(self) -> torch.device:
        """See `EvaluatedModel.device`."""
        return self.model.device

    @torch.no_grad()
    def score_response(self, example: Example) -> dict[str, Any]:
        """See `EvaluatedModel.score_response`; the units are tokens."""
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
            "most_likely": [_token_text(vocabulary, i) for i in scores.argmax(-1).tolist()],
        }

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, extractor: Extractor | None
    ) -> list[dict[str, Any]]:
        """See `EvaluatedModel.generate`; prompts are a batch, and without an extractor no end token is generated."""
        vocabulary = self.vocabulary
        pad = pad_id(vocabulary)
        batch = left_padded([prompt_ids(vocabulary, prompt) for prompt in prompts], pad, self.device)
        width = batch["input_ids"].shape[1]
        ends = end_tokens(vocabulary, self.model)
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            min_new_tokens=max_new_tokens if extractor is None else None,
            do_sample=False,
            eos_token_id=list(ends) or None,
            pad_token_id=pad,
        )
        stops = [] if extractor is None else [_AnswerComplete(extractor, vocabulary, width)]
        output = self.model.generate(  # type: ignore[operator]  # the mixin is in every causal LM
            **batch, generation_config=config, stopping_criteria=StoppingCriteriaList(stops)
        )
        new = [list(takewhile(lambda i: i not in ends, row)) for row in output[:, width:].tolist()]
        return [{"text": _text_of(vocabulary, ids), "tokens": len(ids)} for ids in new]


class _AnswerComplete(StoppingCriteria):
    """Stops a row when its final answer is complete."""

    def __init__(self, extractor: Extractor, vocabulary: Vocabulary, prompt_length: int) -> None:
        self.extractor = extractor
        self.vocabulary = vocabulary
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        rows = input_ids[:, self.prompt_length :].tolist()
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

    def score_response(self, example: Example) -> dict[str, Any]:
        """See `EvaluatedModel.score_response`; the units are bytes, and the bits add up to `ByteLevelBridge.bits`."""
        text, vocabulary = self.bridge.text(self.bridge.vocabulary.pieces(example.prompt)), self.bridge.vocabulary
        control_ids, response = self.bridge.base.control_ids.tolist(), example.response.encode()
        bits, most_likely = [], []
        for byte in response:
            p = text.next().p
            bits.append(-math.log2(max(float(p[byte]), np.finfo(np.float64).tiny)))
            best = int(p.argmax())
            most_likely.append(
                _legible(bytes([best])) if best < 256 else _token_text(vocabulary, control_ids[best - 256])
            )
            text = text.after(bytes([byte]))
        return {"bits": bits, "ends": [*range(1, len(response) + 1)], "most_likely": most_likely}

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, extractor: Extractor | None
    ) -> list[dict[str, Any]]:
        """See `EvaluatedModel.generate`; one prompt after the other, and a text always ends at an end token."""
        return [self._generate(prompt, max_new_tokens, extractor) for prompt in prompts]

    def _generate(self, prompt: str, max_new_tokens: int, extractor: Extractor | None) -> dict[str, Any]:
        pieces, text = stream(self.bridge, prompt, max_new_tokens=max_new_tokens), ""
        for piece in pieces:
            text += piece
            if extractor is not None and extractor.is_complete(text):
                break
        return {"text": text, "tokens": pieces.tokens}


def evaluated_model(name: str, model: PreTrainedModel, vocabulary: Vocabulary) -> EvaluatedModel:
    """Wrap a causal language model, which may be a bridge."""

    def logits(ids: Tensor, logits_to_keep: int) -> Tensor:
        return model(input_ids=ids, use_cache=False, logits_to_keep=logits_to_keep).logits[0]

    return TokenLevelModel(name, model, vocabulary, logits)


def evaluated_donor(name: str, source: ValueSource) -> EvaluatedModel:
    """Wrap the donor alone, which works in its own vocabulary."""
    if isinstance(source, ExpertPair):
        return evaluated_model(name, source.tuned, source.tuned_vocabulary)
    return TokenLevelModel(name, donor(source), source.vocabulary, _donor_logits(source))


def donor(source: ValueSource) -> PreTrainedModel:
    """Return the donor alone: the tuned model of an expert pair, or a source model with its value network."""
    if isinstance(source, ExpertPair):
        return source.tuned
    assert isinstance(source, ValueNetwork)
    return Bridge(LoadedModel("", "", source.source_model, source.vocabulary), [same_vocabulary_steering(source)])


def same_vocabulary_steering(source: ValueSource) -> Steering:
    """Return a steering for a base with the source's vocabulary: logits are added, and nothing is projected."""
    return Steering(
        source,
        source.vocabulary,
        Projection.identity(source.vocabulary.size),
        Combination(ProjectionMethod.LINEAR),
        policy=BoundaryPolicy.AS_IS,
    )


def _donor_logits(source: ValueSource) -> Callable[[Tensor, int], Tensor]:
    def logits(ids: Tensor, logits_to_keep: int) -> Tensor:
        models = {name: source.models[name] for name in source.required_models({"tuned"})}
        outputs = run(models, lambda _name: {"input_ids": ids, "use_cache": False}, logits_to_keep)
        tuned = source.scores({name: output[0].float() for name, output in outputs.items()}).tuned
        assert tuned is not None
        return tuned

    return logits


def _text_of(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """Decode tokens; control tokens have no text."""
    return b"".join(vocabulary.token_bytes[i] or b"" for i in ids).decode(errors="replace")


def _token_text(vocabulary: Vocabulary, i: int) -> str:
    """Return a token as text that differs for different bytes; a control token becomes <id>."""
    data = vocabulary.token_bytes[i]
    return f"<{i}>" if data is None else _legible(data)


def _legible(data: bytes) -> str:
    """Decode bytes; those that are not UTF-8 are escaped."""
    return data.decode(errors="backslashreplace")
