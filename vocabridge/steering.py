"""A steering: one value source as it steers one base model, with all that this takes.

A bridge has one or several; each asks for a change of the base's logits, and the changes add up. So several value
networks, each with its own tokenizer, weights and strength, can steer one base.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from vocabridge.alignment import Alignment, VocabridgeError, Vocabulary
from vocabridge.combination import UNFITTED, Carry, Combination
from vocabridge.guard import Guard
from vocabridge.healing import Healer
from vocabridge.look_ahead import LookAhead
from vocabridge.policy import Policy
from vocabridge.projection import Projection
from vocabridge.reader import Piece
from vocabridge.reading import Reading
from vocabridge.said import Said
from vocabridge.strength import Strength, alpha, is_zero
from vocabridge.value_source import Scores, ValueSource

_SAME_MEANING = ("end", "turn begin", "turn content", "turn end")
"""Roles of control tokens that are read as the source's own; its begin token it has once, in front."""


class Steering(nn.Module):
    """One value source, and how it is heard.

    Attributes:
        source: The value source.
        target: The base's vocabulary.
        projection: From the source's vocabulary to the base's.
        combination: How the source's scores change the base's at strength 1. May be replaced at any time.
        policy: What the source says where its tokens and the base's do not end together.
        strength: alpha, constant or by schedule. At 0 the value source is not run.
        alignment: What the projection was made of; None for a projection of your own.
    """

    def __init__(
        self,
        source: ValueSource,
        target: Vocabulary,
        projection: Projection,
        combination: Combination | None = None,
        *,
        policy: Policy = Policy.LOOK_AHEAD,
        strength: Strength = 1.0,
        alignment: Alignment | None = None,
    ) -> None:
        """Puts the parts together; `Steering.over` checks that they fit."""
        super().__init__()
        self.source = source
        self.target = target
        self.projection = projection
        self.combination = combination or UNFITTED
        self.policy = policy
        self.strength = strength
        self.alignment = alignment
        self.look_ahead = None if alignment is None else LookAhead(alignment, source.vocabulary, target)
        self._healer = Healer(source.vocabulary, target).to(next(source.parameters()).device)
        self._controls = controls(source.vocabulary, target)

    @classmethod
    def over(
        cls,
        target: Vocabulary,
        source: ValueSource,
        alignment: Alignment,
        combination: Combination | None = None,
        *,
        policy: Policy = Policy.LOOK_AHEAD,
        strength: Strength = 1.0,
    ) -> Steering:
        """Steers a base model with this vocabulary.

        Args:
            target: The base model's vocabulary.
            source: A value network or a contrast pair.
            alignment: From the source's vocabulary to the base's.
            combination: By default `UNFITTED`.
            policy: What the source says where tokens do not end together.
            strength: alpha.

        Raises:
            VocabridgeError: The alignment is for other tokenizers.
        """
        alignment = alignment.fitted(source=source.vocabulary, target=target)
        projection = Projection.of(alignment)
        return cls(source, target, projection, combination, policy=policy, strength=strength, alignment=alignment)

    def check(self, target: Vocabulary, guard: Guard) -> None:
        """Checks that it can steer a model within some limits.

        Args:
            target: The model's vocabulary.
            guard: The limits.

        Raises:
            VocabridgeError: It is for another vocabulary, or lacks what the guard looks at.
        """
        if (self.target.fingerprint, self.target.size) != (target.fingerprint, target.size):
            raise VocabridgeError(
                f"{self.source.name} steers models with the tokenizer of {self.target.name}, and {target.name} has "
                "another; align it with this one"
            )
        guard.check(self.combination)

    def to_device(self, device: torch.device) -> None:
        """Puts what works on the base's logits where those are; the source stays where it is."""
        self.projection.to(device)
        if self.look_ahead is not None:
            self.look_ahead.to(device)

    @property
    def is_silent(self) -> bool:
        """Whether it changes nothing, so that its source need not run; weights (a, 0, 0) are no steering either."""
        return is_zero(self.strength) or not self.wanted

    @property
    def wanted(self) -> tuple[str, ...]:
        """What the combination needs, as fields of `Scores`."""
        return tuple(name for name, needed in self.combination.needs().items() if needed)

    def models(self, wanted: Sequence[str]) -> set[str]:
        """The source's models that have to run for some fields of `Scores`."""
        needs = dict.fromkeys(wanted, True)
        if "delta" in wanted and self.policy is not Policy.RETOKENIZE:
            needs |= {"tuned": True, "untuned": True}  # a cover is weighed by probabilities
        return self.source.needed(**needs)

    def reading(self, batch: int, wanted: Sequence[str]) -> Reading:
        """A memory for a batch of new texts, in which some fields of `Scores` can be asked for."""
        return Reading(self.source, self.models(wanted), self._healer, self.policy, batch, self.target)

    def pieces(self, ids: Sequence[int]) -> list[Piece]:
        """What a text grows by with tokens of the base's; below 0 for padding, which is no text."""
        return [self.piece(i) for i in ids]

    def piece(self, i: int) -> Piece:
        """What a text grows by with a token of the base's."""
        if i < 0:
            return b""
        data = self.target.token_bytes[i]
        return self._controls.get(i, b"") if data is None else data

    def look(self, said: Said, p_base: Iterable[Tensor], carry: Carry, wanted: Sequence[str] | None = None) -> None:
        """Has the source look ahead where the policy says so and much depends on it.

        Args:
            said: What the source says at some positions, the tuned donor among it.
            p_base: The base's probabilities (n, |T|) at the positions of each of its parts.
            carry: By which its distribution is to be carried; a change of logits has no mass that could be split.
            wanted: The fields of `Scores` that will be asked for, a donor among them; those of the combination if None.
        """
        if self.policy is not Policy.LOOK_AHEAD or self.look_ahead is None or carry.of_delta:
            return
        chosen: list[list[int]] = []
        for part, p in zip(said.parts, p_base, strict=True):
            scores, _ = self.scores(said, part, self.wanted if wanted is None else wanted)
            image = self.projection.image(p)
            worth = self.look_ahead.choose(scores.donors[0].softmax(-1), image, p)
            said.remember(part, image)
            chosen += [
                [*dict.fromkeys(unsure + others)] for unsure, others in zip(said.unsure(part), worth, strict=True)
            ]
        said.look_behind(chosen)

    def change(
        self, said: Said, part: slice, base_logits: Tensor, p_base: Tensor, n: Tensor, guard: Guard
    ) -> tuple[Tensor, Tensor]:
        """The change of the base's logits at some positions.

        Args:
            said: What the source says.
            part: The positions.
            base_logits: The base model's, float32 (n, |T|).
            p_base: Their softmax.
            n: Positions since the prompt, int64 (n,).
            guard: Its gates may silence the source.

        Returns:
            The change, float32 (n, |T|), and where the source has a say, (n, 1).
        """
        scores, speaks = self.scores(said, part, self.wanted)
        gate = guard.gate(base_logits, p_base, scores)
        strength = alpha(self.strength, n) * (speaks if gate is None else speaks * gate)
        return self.combination.change(self.projection, base_logits, p_base, scores, strength), speaks

    def scores(self, said: Said, part: slice, wanted: Sequence[str]) -> tuple[Scores, Tensor]:
        """Scores at some positions, on the base's device, and where the source has a say; see `Said.scores`."""
        return said.scores(part, wanted, self.look_ahead, self.projection.speaking.device)


def steer(base_logits: Tensor, heard: Sequence[tuple[Steering, Said]], n: Tensor, guard: Guard) -> Tensor:
    """The base's logits with the changes that all steerings ask for.

    Args:
        base_logits: The base model's at k positions, (k, |T|), of any floating dtype.
        heard: The steerings that have a say, not none, and what their sources say at these positions.
        n: Positions since the prompt, int64 (k,).
        guard: Limits of the changes.

    Returns:
        Logits, float32 (k, |T|); the base's own where no source has a say.
    """
    parts = heard[0][1].parts
    only = base_logits.float().softmax(-1) if len(parts) == 1 else None

    for steering, said in heard:
        p_base = (base_logits[part].float().softmax(-1) if only is None else only for part in parts)
        steering.look(said, p_base, steering.combination.carry)
    steered = torch.empty_like(base_logits, dtype=torch.float32)
    for part in parts:
        logits = base_logits[part].float()
        p = logits.softmax(-1) if only is None else only
        change, speaks = None, torch.zeros(1, device=base_logits.device)
        for steering, said in heard:
            one, says = steering.change(said, part, logits, p, n[part], guard)
            change = one if change is None else change.add_(one)
            speaks = torch.maximum(speaks, says)
        assert change is not None
        guard.limit(logits, p, change, speaks, out=steered[part])
    return steered


def controls(source: Vocabulary, target: Vocabulary) -> dict[int, int]:
    """The source's control token for each of the target's that means the same."""
    both = [role for role in _SAME_MEANING if role in source.roles and role in target.roles]
    return {target.roles[role]: source.roles[role] for role in reversed(both)}
