"""What is compared with the exact distribution (`approximation_error`), of a model or of a value source.

    subject        exactly                                                     approximated by
    distribution   the model's q                                               its projection
    change         log p_base + log q_tuned - log q_untuned, each q exactly    a bridge with the weights (1, 1, 1)

A change is compared only among the tokens to which both exact distributions give some probability. The ratio of the
others, whose mass was not examined, is not known.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from vocabridge.alignment import Alignment, Vocabulary
from vocabridge.alignment.arrays import Bool, Float64
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.steering import Steering, steer
from vocabridge.byte_level.byte_lm import ByteLM
from vocabridge.diagnostics.alignment_score import AlignmentProjector
from vocabridge.diagnostics.exact_next_token import NextTokenDistribution
from vocabridge.models.loading import LoadedModel
from vocabridge.models.value_source import ValueSource
from vocabridge.options import ProjectionMethod
from vocabridge.projection.combination import Combination
from vocabridge.projection.positions import Position
from vocabridge.projection.source_stream import SourceStream

_TOLERANCE = 1e-3
"""The tolerance of `ByteLM` for the exact distributions."""

_TINY = 1e-37

TokenSelection: TypeAlias = Bool | slice
"""Selects some of the target's tokens."""


@dataclass(frozen=True)
class ExactReference:
    """What the approximations at one position are compared with.

    Attributes:
        p: The exact distribution over the selected tokens, (n,).
        tokens: Selects the n tokens from all of the target's.
        mass: The share of the base's mass that these tokens have.
    """

    p: Float64
    tokens: TokenSelection
    mass: float


class Subject(ABC):
    """What is compared.

    Attributes:
        byte_lm: The source as a `ByteLM`, for the exact distributions.
        methods: The projection methods to compare.
        steerings: For each alignment, the steering that reads and projects the source's predictions.
        required_scores: The fields of `Scores` that the methods need.
    """

    byte_lm: ByteLM
    methods: Sequence[ProjectionMethod]
    steerings: Mapping[str, Steering]
    required_scores: Sequence[str]

    @abstractmethod
    def exact(self, source: NextTokenDistribution, p_base: Tensor | None) -> ExactReference:
        """Return what approximations are compared with at a position.

        Args:
            source: The source's exact distributions there.
            p_base: The base's distribution there, (|T|,); None without a base.
        """

    @abstractmethod
    def projected(
        self, name: str, stream: SourceStream, position: Position, method: ProjectionMethod, p_base: Tensor | None
    ) -> tuple[Tensor, bool]:
        """Return the approximation at a position, (|T|,), and whether the source makes a prediction there.

        Args:
            name: The alignment's name.
            stream: The text as the source reads it.
            position: The position, of this stream.
            method: The projection method.
            p_base: The base's distribution there, (|T|,); None without a base.
        """


class Distribution(Subject):
    """The distribution of one model."""

    def __init__(
        self, model: LoadedModel, target: Vocabulary, alignments: Mapping[str, Alignment], *, informed: bool
    ) -> None:
        """Prepare to project a model's distribution by each alignment, with a base also by the informed method.

        Raises:
            VocabridgeError: An alignment is for other tokenizers; or the model's tokenizer has no byte-exact view.
        """
        self.byte_lm = ByteLM.of(model, tolerance=_TOLERANCE)
        self.methods = [ProjectionMethod.STATIC, ProjectionMethod.INFORMED] if informed else [ProjectionMethod.STATIC]
        self.required_scores = ("tuned",)
        self._projectors = {
            name: AlignmentProjector(model, target, alignment) for name, alignment in alignments.items()
        }
        self.steerings = {name: projector.steering for name, projector in self._projectors.items()}

    def exact(self, source: NextTokenDistribution, p_base: Tensor | None) -> ExactReference:
        """Return the model's exact distribution; see `Subject.exact`."""
        return ExactReference(source.p[0], slice(None), 1.0)

    def projected(
        self, name: str, stream: SourceStream, position: Position, method: ProjectionMethod, p_base: Tensor | None
    ) -> tuple[Tensor, bool]:
        """Project the model's distribution; see `Subject.projected`."""
        p = None if p_base is None else p_base[None]
        ((_, q, active),) = self._projectors[name].project(stream, [position], method, p)
        return q[0], bool(active[0])


class Change(Subject):
    """A base's distribution, changed by a value source."""

    def __init__(self, source: ValueSource, target: Vocabulary, alignments: Mapping[str, Alignment]) -> None:
        """Prepare to project a value source's change by each alignment.

        Raises:
            VocabridgeError: An alignment is for other tokenizers; or the source's tokenizer has no byte-exact view.
        """
        self.required_scores = ("tuned", "untuned")
        self.byte_lm = ByteLM.of_value_source(source, self.required_scores, tolerance=_TOLERANCE)
        self.methods = list(ProjectionMethod)
        self.steerings = {
            name: Steering.over(target, source, alignment, Combination()) for name, alignment in alignments.items()
        }

    def exact(self, source: NextTokenDistribution, p_base: Tensor | None) -> ExactReference:
        """Return p_base q_tuned / q_untuned, scaled to 1; see `Subject.exact`."""
        assert p_base is not None
        tokens: Bool = np.all(source.p > 0, axis=0)
        p = p_base.double().cpu().numpy()[tokens]
        steered = p * (source.p[0, tokens] / source.p[1, tokens])
        return ExactReference(steered / max(float(steered.sum()), _TINY), tokens, float(p.sum()))

    @torch.no_grad()
    def projected(
        self, name: str, stream: SourceStream, position: Position, method: ProjectionMethod, p_base: Tensor | None
    ) -> tuple[Tensor, bool]:
        """Steer the base by the projected change; see `Subject.projected`."""
        assert p_base is not None
        steering = self.steerings[name]
        steering.combination = Combination(method)
        first = stream.predictor.predict([position], self.required_scores, p_base.device)
        logits = p_base.clamp_min(_TINY).log()[None]
        n = torch.zeros(1, dtype=torch.int64)
        steered = steer(logits, [(steering, stream, [position])], n, SteeringLimits())
        return steered.softmax(-1)[0], bool(first.active[0])
