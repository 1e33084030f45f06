"""Steering as a logits processor, for code that calls the base model itself.

    base.generate(..., logits_processor=[SteeringLogitsProcessor(vocabulary, [steering])])

A logits processor gets only the ids of all rows so far, so the sources follow the texts with `SourceStreams.follow`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.source_streams import NO_TEXT, SourceStreams
from vocabridge.bridge.steering import Steering, steer


class SteeringLogitsProcessor(LogitsProcessor):
    """Adds to a base model's scores what a `Bridge` with the same steerings adds to its logits.

    Put it before other processors. The scores keep their log-sum-exp, so logits stay logits, and the log-probabilities
    of beam search stay log-probabilities.

    Attributes:
        vocabulary: The base's vocabulary.
        steerings: The steerings.
        limits: The limits of steering.
        pad: The id with which batches are padded on the left.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        steerings: Sequence[Steering],
        limits: SteeringLimits | None = None,
        *,
        pad: int | None = None,
    ) -> None:
        """Make a processor for a base model with this vocabulary.

        Args:
            vocabulary: The base's vocabulary, as wide as its logits.
            steerings: The steerings, each made for this vocabulary.
            limits: The limits of steering; by default none.
            pad: The id with which batches are padded on the left; by default the tokenizer's pad token, else its eos
                token.

        Raises:
            VocabridgeError: A steering is for another vocabulary.
        """
        self.vocabulary = vocabulary
        self.steerings = list(steerings)
        self.limits = limits or SteeringLimits()
        self.pad = vocabulary.roles.get("pad", vocabulary.roles.get("eos")) if pad is None else pad
        for steering in steerings:
            steering.check(vocabulary)
        self._streams = SourceStreams()
        self._changed = self._written = torch.zeros(0)

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Steer one step.

        Args:
            input_ids: Ids of the base's tokenizer, (batch, n). Ids `pad` at the start of a row are padding.
            scores: The base's logits up to a constant per row, (batch, |T|).

        Returns:
            Steered scores, float32 (batch, |T|); `scores` itself if no steering is active.

        Raises:
            VocabridgeError: The scores are not as wide as the vocabulary.
        """
        if scores.shape[-1] != self.vocabulary.size:
            raise VocabridgeError(
                f"the model gives {scores.shape[-1]} logits, but the vocabulary of {self.vocabulary.name} is for "
                f"{self.vocabulary.size}; build the vocabulary with the model's width"
            )
        if not any(steering.is_active for steering in self.steerings):
            return scores
        ids = self._without_padding(input_ids)
        steered_by = self._streams.follow(self.steerings, ids)
        for steering, _, _ in steered_by:
            steering.to_device(scores.device)
        base = scores.float()
        position = ids.shape[1] - self._streams.prompt_length
        steered = steer(base, steered_by, torch.full((len(base),), position, device=base.device), self.limits)
        self._count(base.argmax(-1) != steered.argmax(-1))
        return steered + (base.logsumexp(-1, keepdim=True) - steered.logsumexp(-1, keepdim=True))

    @property
    def changed_rate(self) -> Tensor | None:
        """The share of each row's steps since the prompt in which steering changed the most likely token, (batch,).

        None before any step; see `BridgeCache.changed_rate`.
        """
        return self._changed / self._written if len(self._written) else None

    def _without_padding(self, input_ids: Tensor) -> Tensor:
        """Return the ids on the host, with `NO_TEXT` for padding at the start of rows."""
        ids = input_ids.to("cpu", copy=True)  # because beam search writes into the same tensor
        return ids if self.pad is None else ids.where((ids != self.pad).cumsum(-1) > 0, NO_TEXT)

    def _count(self, changed: Tensor) -> None:
        """Count, for each row, the steps and those in which steering changed the most likely token, (batch,) bool."""
        origin = self._streams.origin
        if origin is None:
            self._changed, self._written = torch.zeros(len(changed)), torch.zeros(len(changed))
        else:
            self._changed, self._written = self._changed[origin], self._written[origin]
        self._changed += changed.cpu()
        self._written += 1
