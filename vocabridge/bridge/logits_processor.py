"""Steering as a logits processor, for those who hold the base model themselves.

    base.generate(..., logits_processor=[SteeringProcessor(vocabulary, [steering])])

A processor knows nothing but the ids of all rows so far; `SourceStreams.follow` says how the sources keep up.
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

    Put it in front of other processors. Scores keep their log-sum-exp: logits stay logits, and the log-probabilities
    that beam search processes stay log-probabilities.

    Attributes:
        vocabulary: The base's.
        steerings: What steers it.
        limits: Limits of steering.
        pad: The id in front of texts that are shorter than others of the batch.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        steerings: Sequence[Steering],
        limits: SteeringLimits | None = None,
        *,
        pad: int | None = None,
    ) -> None:
        """For a base model with this vocabulary.

        Args:
            vocabulary: The base's, as wide as its logits.
            steerings: What steers it.
            limits: Limits of steering; by default none.
            pad: The id that batches are padded with on the left; by default the tokenizer's padding token, else its
                end token.

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
        """Steers one step.

        Args:
            input_ids: (batch, n) ids of the base's tokenizer; ids of `pad` in front of a row are no text.
            scores: (batch, |T|), the base's logits, or these up to a number per row.

        Returns:
            Steered scores, float32 (batch, |T|); `scores` itself while no steering has a say.

        Raises:
            VocabridgeError: There are more or fewer scores than the vocabulary has ids.
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
        """Share of each row's steps since the prompt in which steering changed the likeliest token, (batch,).

        None before any; see `BridgeCache.changed_rate`.
        """
        return self._changed / self._written if len(self._written) else None

    def _without_padding(self, input_ids: Tensor) -> Tensor:
        """The ids on the host, `NO_TEXT` for padding in front."""
        ids = input_ids.to("cpu", copy=True)  # beam search writes into its own
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
