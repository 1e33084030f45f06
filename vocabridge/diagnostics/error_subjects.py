"""What is compared with the truth (`approximation_error`): what a source model says, or what a value source changes.

    distribution   the model's q, exactly                                          beside what is projected of it
    change         log p_base + log q_tuned - log q_untuned, each q exactly        beside a bridge at (1, 1, 1)

A change is compared among the tokens of which both donors' truth was looked at: of the others the ratio of two next to
nothings is not known.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from vocabridge.alignment import Alignment, Vocabulary
from vocabridge.alignment.arrays import Bool, Float64
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.steering import Steering, steer
from vocabridge.byte_level.byte_lm import ByteLM
from vocabridge.diagnostics.alignment_score import Scorer
from vocabridge.diagnostics.exact_next_token import NextTokenDistribution
from vocabridge.models.loading import LoadedModel
from vocabridge.models.value_source import ValueSource
from vocabridge.options import ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.positions import Position
from vocabridge.projection.source_stream import SourceStream

_BYTES = 1e-3
"""The share of the source's mass that may be left unread at a position, as `ByteLM` has it."""

_TINY = 1e-37

Chosen: TypeAlias = Bool | slice
"""Which of the target's tokens."""


class Subject(ABC):
    """What is compared.

    Attributes:
        bytes: The source, byte by byte, for the truth.
        methods: By which it can be projected.
        steerings: Hear it, and method it by each alignment.
        required_scores: The fields of `Scores` that the methods need.
    """

    bytes: ByteLM
    methods: Sequence[ProjectionMethod]
    steerings: Mapping[str, Steering]
    required_scores: Sequence[str]

    @abstractmethod
    def truth(self, one: NextTokenDistribution, p_base: Tensor | None) -> tuple[Float64, Chosen, float]:
        """The truth at a position, over some tokens; which; and the share of the base's mass (|T|,) that they have."""

    @abstractmethod
    def projected(
        self, name: str, stream: SourceStream, position: Position, method: ProjectionMethod, p_base: Tensor | None
    ) -> tuple[Tensor, bool]:
        """Return what an alignment makes of a position, (|T|,), and whether the source makes a prediction there."""


class Distribution(Subject):
    """The distribution of one model."""

    def __init__(
        self, model: LoadedModel, target: Vocabulary, alignments: Mapping[str, Alignment], *, informed: bool
    ) -> None:
        """Projects it by each alignment, also by the informed method where the base is known."""
        self.bytes = ByteLM.of(model, tolerance=_BYTES)
        self.methods = [ProjectionMethod.STATIC, ProjectionMethod.INFORMED] if informed else [ProjectionMethod.STATIC]
        self.required_scores = ("tuned",)
        self._scorers = {name: Scorer(model, target, alignment) for name, alignment in alignments.items()}
        self.steerings = {name: scorer.steering for name, scorer in self._scorers.items()}

    def truth(self, one: NextTokenDistribution, p_base: Tensor | None) -> tuple[Float64, Chosen, float]:
        """See `Subject.truth`."""
        return one.p[0], slice(None), 1.0

    def projected(
        self, name: str, stream: SourceStream, position: Position, method: ProjectionMethod, p_base: Tensor | None
    ) -> tuple[Tensor, bool]:
        """See `Subject.projected`."""
        p = None if p_base is None else p_base[None]
        ((_, q, active),) = self._scorers[name].projected(stream, [position], method, p)
        return q[0], bool(active[0])


class Change(Subject):
    """A base's distribution with the whole change of a value source."""

    def __init__(self, source: ValueSource, target: Vocabulary, alignments: Mapping[str, Alignment]) -> None:
        """Projects it by each alignment.

        Raises:
            VocabridgeError: An alignment is for other tokenizers; or the source's tokenizer has no byte-exact view.
        """
        self.required_scores = ("tuned", "untuned")
        self.bytes = ByteLM.of_value_source(source, self.required_scores, tolerance=_BYTES)
        self.methods = list(ProjectionMethod)
        self.steerings = {
            name: Steering.over(target, source, alignment, Combination()) for name, alignment in alignments.items()
        }

    def truth(self, one: NextTokenDistribution, p_base: Tensor | None) -> tuple[Float64, Chosen, float]:
        """See `Subject.truth`."""
        assert p_base is not None
        some: Bool = np.all(one.p > 0, axis=0)
        own = p_base.double().cpu().numpy()[some]
        steered = own * (one.p[0, some] / one.p[1, some])
        return steered / max(float(steered.sum()), _TINY), some, float(own.sum())

    @torch.no_grad()
    def projected(
        self, name: str, stream: SourceStream, position: Position, method: ProjectionMethod, p_base: Tensor | None
    ) -> tuple[Tensor, bool]:
        """See `Subject.projected`."""
        assert p_base is not None
        steering = self.steerings[name]
        steering.combination = Combination(method)
        first = stream.predictor.predict([position], self.required_scores, p_base.device)
        logits = p_base.clamp_min(_TINY).log()[None]
        n = torch.zeros(1, dtype=torch.int64)
        steered = steer(logits, [(steering, stream, [position])], n, SteeringLimits())
        return steered.softmax(-1)[0], bool(first.active[0])
