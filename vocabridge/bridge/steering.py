"""A steering: one value source with its projection, combination, policy and strength, for one base model.

A bridge has one or more steerings. Each computes a change of the base's logits, and the changes add up. So several
value sources, each with its own tokenizer, weights and strength, can steer one base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor, nn

from vocabridge.alignment import Alignment, VocabridgeError, Vocabulary
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.models.value_source import ValueSource
from vocabridge.options import BoundaryPolicy
from vocabridge.projection.combination import UNFITTED, Combination
from vocabridge.projection.config import BoundaryConfig
from vocabridge.projection.lookahead import Lookahead
from vocabridge.projection.positions import Position
from vocabridge.projection.projection import Projection
from vocabridge.projection.source_predictions import ResolvedPredictions, SourcePredictions, parts_of, predictions_at
from vocabridge.projection.source_stream import SourceStream
from vocabridge.projection.strength import Schedule, Strength, alpha, from_json, is_zero
from vocabridge.projection.token_healing import TokenHealer
from vocabridge.utils.settings import member

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SteeringSettings(TypedDict, total=False):
    """The settings of a steering, as keyword arguments; each may be left out.

    Attributes:
        policy: What the source predicts where its tokens and the base's do not end together; by default lookahead.
        strength: alpha, a constant or a schedule; by default 1. At 0 the value source does not run.
        boundary_config: The settings of token healing and lookahead.
    """

    policy: BoundaryPolicy
    strength: Strength
    boundary_config: BoundaryConfig | None


class Steering(nn.Module):
    """One value source, and how its predictions change a base's logits.

    Attributes:
        source: The value source.
        target: The base's vocabulary.
        projection: The matrices from the source's vocabulary to the base's.
        combination: The combination of the source's and the base's predictions. It may be replaced at any time.
        policy: See `SteeringSettings`. It may be replaced at any time, also by the name of another policy.
        strength: See `SteeringSettings`. It may be replaced at any time.
        boundary_config: The settings of token healing and lookahead; fixed once the steering is made.
        alignment: The alignment of which the projection was made; None for a projection made otherwise.
        lookahead: The lookahead; None without an alignment.
    """

    def __init__(
        self,
        source: ValueSource,
        target: Vocabulary,
        projection: Projection,
        combination: Combination | None = None,
        *,
        policy: BoundaryPolicy = BoundaryPolicy.LOOKAHEAD,
        strength: Strength = 1.0,
        alignment: Alignment | None = None,
        boundary_config: BoundaryConfig | None = None,
    ) -> None:
        """Assemble a steering from parts that fit together; `Steering.over` checks that."""
        super().__init__()
        self.source = source
        self.target = target
        self.projection = projection
        self.combination = combination or UNFITTED
        self.policy = policy
        self.strength = strength
        self.alignment = alignment
        self.boundary_config = config = boundary_config or BoundaryConfig()
        self.lookahead = None if alignment is None else Lookahead(alignment, source.vocabulary, target, config)
        self._healer = TokenHealer(source.vocabulary, target, config).to(next(source.parameters()).device)

    @classmethod
    def over(
        cls,
        target: Vocabulary,
        source: ValueSource,
        alignment: Alignment,
        combination: Combination | None = None,
        **settings: Unpack[SteeringSettings],
    ) -> Steering:
        """Make a steering of a base model with this vocabulary.

        Args:
            target: The base model's vocabulary.
            source: A value network or an expert pair.
            alignment: The alignment from the source's vocabulary to the base's.
            combination: The combination; by default `UNFITTED`.
            **settings: See `SteeringSettings`.

        Raises:
            VocabridgeError: The alignment is for other tokenizers.
        """
        alignment = alignment.fitted(source=source.vocabulary, target=target)
        return cls(source, target, Projection.of(alignment), combination, alignment=alignment, **settings)

    def check(self, target: Vocabulary) -> None:
        """Check that the steering is for a base model with this vocabulary.

        Raises:
            VocabridgeError: The steering is for another vocabulary.
        """
        if (self.target.fingerprint, self.target.size) != (target.fingerprint, target.size):
            raise VocabridgeError(
                f"{self.source.name} is aligned with the tokenizer of {self.target.name}, and {target.name} has "
                "another; align the source with that one"
            )

    def to_device(self, device: torch.device) -> None:
        """Move the projection and the lookahead to the device of the base's logits; the source stays on its own."""
        self.projection.to(device)
        if self.lookahead is not None:
            self.lookahead.to(device)

    @property
    def policy(self) -> BoundaryPolicy:
        """The policy; setting another value than a policy or its name raises `VocabridgeError`."""
        return self._policy

    @policy.setter
    def policy(self, value: BoundaryPolicy | str) -> None:
        self._policy = member("policy", value, BoundaryPolicy)

    @property
    def strength(self) -> Strength:
        """The strength: a number from -1000 to 1000, or a schedule, also as the JSON object that `bridge.json` has.

        Setting anything else raises `VocabridgeError`.
        """
        return self._strength

    @strength.setter
    def strength(self, value: Strength) -> None:
        self._strength = value if isinstance(value, Schedule) else from_json(value)

    @property
    def is_active(self) -> bool:
        """Whether the source has to run: the strength is not 0 everywhere, and the source's weights are not all 0."""
        return not is_zero(self.strength) and bool(self.combination.required_scores)

    def open_stream(
        self, batch: int, required_scores: Sequence[str] | None = None, policy: BoundaryPolicy | None = None
    ) -> SourceStream:
        """Return a stream for a batch of new texts.

        Args:
            batch: The number of rows.
            required_scores: Names of the fields of `Scores` that are needed; by default those of the combination.
            policy: The boundary policy; by default the steering's.
        """
        policy = policy or self.policy
        models = self.required_models(required_scores, policy)
        return SourceStream(self.source, models, self._healer, policy, batch, self.target)

    def required_models(
        self, required_scores: Sequence[str] | None = None, policy: BoundaryPolicy | None = None
    ) -> set[str]:
        """Return names of the source's models that have to run for some scores; arguments as for `open_stream`."""
        scores = set(self.combination.required_scores if required_scores is None else required_scores)
        if "delta" in scores and (policy or self.policy) is not BoundaryPolicy.AS_IS:
            scores |= {"tuned", "untuned"}  # because covers are weighted by probabilities
        return self.source.required_models(scores)

    def predictions(
        self,
        stream: SourceStream,
        positions: Sequence[Position],
        p_base: Callable[[slice, SourcePredictions], Tensor],
        required_scores: Sequence[str] | None = None,
        *,
        lookahead: bool | None = None,
    ) -> Iterator[ResolvedPredictions]:
        """Predict at positions of a stream, a few at a time, on the base's device; see `predictions_at`.

        Args:
            stream: A stream of this steering.
            positions: Some or all of the positions that the stream's `advance` returned.
            p_base: A function that returns the base's probabilities (n, |T|) at a slice of the positions.
            required_scores: Names of the fields of `Scores` that are needed; by default those of the combination.
            lookahead: Whether policy `lookahead` looks ahead; by default if the combination is of distributions,
                because a change of logits has no mass to split.

        Yields:
            The predictions at each slice of `parts_of`, in order.
        """
        scores = self.combination.required_scores if required_scores is None else required_scores
        if lookahead is None:
            lookahead = not self.combination.of_logit_delta
        return predictions_at(
            stream.predictor, positions, scores, self.projection, self.lookahead if lookahead else None, p_base
        )

    def change(
        self, predictions: ResolvedPredictions, base_logits: Tensor, p_base: Tensor, n: Tensor, limits: SteeringLimits
    ) -> Tensor:
        """Return the change of the base's logits at n positions, float32 (n, |T|).

        Args:
            predictions: The source's predictions.
            base_logits: The base model's logits, float32 (n, |T|).
            p_base: The softmax of `base_logits`.
            n: The number of tokens since the prompt at each position, int64 (n,).
            limits: The limits of steering, whose gate may switch the source off.
        """
        gate = limits.gate(p_base)
        active = predictions.active if gate is None else predictions.active * gate
        strength = alpha(self.strength, n) * active
        return self.combination.change(self.projection, base_logits, p_base, predictions, strength)


def steer(
    base_logits: Tensor,
    steered_by: Sequence[tuple[Steering, SourceStream, Sequence[Position]]],
    n: Tensor,
    limits: SteeringLimits,
) -> Tensor:
    """Return the base's logits with the changes of all active steerings.

    Args:
        base_logits: The base model's logits at k positions, (k, |T|), of any floating dtype.
        steered_by: The active steerings, at least one, each with its stream and its k positions.
        n: The number of tokens since the prompt at each position, int64 (k,).
        limits: The limits of steering.

    Returns:
        Logits, float32 (k, |T|); the base's own where no source makes a prediction.
    """
    parts = parts_of(len(base_logits))
    single = base_logits.float().softmax(-1) if len(parts) == 1 else None

    def p_base(part: slice, _first: SourcePredictions | None = None) -> Tensor:
        return base_logits[part].float().softmax(-1) if single is None else single

    predictions = [steering.predictions(stream, positions, p_base) for steering, stream, positions in steered_by]
    steered = torch.empty_like(base_logits, dtype=torch.float32)
    for part, *of_part in zip(parts, *predictions, strict=True):
        logits, p = base_logits[part].float(), p_base(part)
        change, active = None, torch.zeros(1, device=base_logits.device)
        for (steering, _, _), of_source in zip(steered_by, of_part, strict=True):
            of_steering = steering.change(of_source, logits, p, n[part], limits)
            change = of_steering if change is None else change.add_(of_steering)
            active = torch.maximum(active, of_source.active)
        assert change is not None
        torch.add(logits, change, out=steered[part])
        limits.exclude(steered[part], p, active)
    return steered
