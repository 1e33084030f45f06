"""Steering as a logits processor, for those who hold the base model themselves.

    base.generate(..., logits_processor=[SteeringProcessor(vocabulary, [steering])])

A processor is told nothing but the ids of all rows so far. They are compared with what the value sources have read:
each row goes on from the row it has most in common with, and only what is new is read. So beams may be reordered,
rows may go back, the batch may grow or shrink, and a new prompt begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from vocabridge.alignment import VocabridgeError, Vocabulary
from vocabridge.bridge.limits import SteeringLimits
from vocabridge.bridge.steering import Steering, steer
from vocabridge.projection.source_predictions import Said
from vocabridge.projection.source_stream import Reading

_NO_TEXT = -1


class SteeringLogitsProcessor(LogitsProcessor):
    """Adds to a base model's scores what a `Bridge` with the same steerings adds to its logits.

    Put it in front of other processors. Scores keep their log-sum-exp: logits stay logits, and the log-probabilities
    that beam search processes stay log-probabilities.

    Attributes:
        vocabulary: The base's.
        steerings: What steers it.
        guard: Limits of steering.
        pad: The id in front of texts that are shorter than others of the batch.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        steerings: Sequence[Steering],
        guard: SteeringLimits | None = None,
        *,
        pad: int | None = None,
    ) -> None:
        """For a base model with this vocabulary.

        Args:
            vocabulary: The base's, as wide as its logits.
            steerings: What steers it.
            guard: Limits of steering; by default none.
            pad: The id that batches are padded with on the left; by default the tokenizer's padding token, else its
                end token.

        Raises:
            VocabridgeError: A steering is for another vocabulary, or lacks what the guard looks at.
        """
        self.vocabulary = vocabulary
        self.steerings = list(steerings)
        self.guard = guard or SteeringLimits()
        self.pad = vocabulary.roles.get("pad", vocabulary.roles.get("end")) if pad is None else pad
        for steering in steerings:
            steering.check(vocabulary, self.guard)
        self._readings: dict[int, Reading] = {}
        self._texts = torch.zeros(0, 0, dtype=torch.int64)  # what has been read, (rows, n), on the host
        self._ever_read = 0  # columns, those among them that were taken back
        self._prompt_length = 0
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
        speaking = {number: one for number, one in enumerate(self.steerings) if not one.is_silent}
        if not speaking:
            return scores
        ids = self._without_padding(input_ids)
        # Whoever is interrupted below begins anew: what the sources have read by then is not known.
        before, self._texts = self._texts, self._texts[:0]
        heard = self._listen(speaking, before, ids)
        for steering, _ in heard:
            steering.to_device(scores.device)
        base = scores.float()
        position = ids.shape[1] - self._prompt_length
        steered = steer(base, heard, torch.full((len(base),), position, device=base.device), self.guard)
        self._changed += (base.argmax(-1) != steered.argmax(-1)).cpu()
        self._written += 1
        self._texts = ids
        return steered + (base.logsumexp(-1, keepdim=True) - steered.logsumexp(-1, keepdim=True))

    @property
    def changed_rate(self) -> Tensor | None:
        """Share of each row's steps since the prompt in which steering changed the likeliest token, (batch,).

        None before any; see `BridgeCache.changed_rate`.
        """
        return self._changed / self._written if len(self._written) else None

    def _without_padding(self, input_ids: Tensor) -> Tensor:
        """The ids on the host, `_NO_TEXT` for padding in front."""
        ids = input_ids.to("cpu", copy=True)  # beam search writes into its own
        return ids if self.pad is None else ids.where((ids != self.pad).cumsum(-1) > 0, _NO_TEXT)

    def _listen(self, speaking: dict[int, Steering], before: Tensor, ids: Tensor) -> list[tuple[Steering, Said]]:
        """Has the sources go on from earlier texts, (rows, m), to these, (batch, n), and hears them at the end."""
        length = ids.shape[1]
        origin, common = _continued(before, ids)
        common = common.clamp_max(length - 1)  # a source is heard after something that it reads
        shared = int(common.min())
        if not len(before) or shared < self._prompt_length or length > before.shape[1] + 1:
            self._prompt_length = length
            self._changed, self._written = torch.zeros(len(ids)), torch.zeros(len(ids))
        else:
            self._changed, self._written = self._changed[origin], self._written[origin]
        held = before.shape[1]
        models = {number: steering.models(steering.wanted) for number, steering in speaking.items()}
        # What is taken back stays in the sources' caches: when it is half of what they hold, they begin anew.
        if (
            not len(before)
            or 2 * shared < self._ever_read
            or models != {number: reading.models for number, reading in self._readings.items()}
        ):
            self._readings = {number: one.reading(len(ids), one.wanted) for number, one in speaking.items()}
            self._ever_read, held, shared, common = 0, 0, 0, torch.zeros_like(common)
        elif origin.tolist() != list(range(len(before))):
            for reading in self._readings.values():
                reading.reorder(origin)
        rows, kept = ids.tolist(), common.tolist()
        heard = []
        for number, steering in speaking.items():
            reading = self._readings[number]
            for row, (text, start) in enumerate(zip(rows, kept, strict=True)):
                if start < held:
                    reading.crop(row, start)
                reading.read_on(row, steering.pieces(text[start:-1]))
            heard.append((steering, reading.read([steering.pieces(text[-1:]) for text in rows], 1)))
        self._ever_read += length - shared
        return heard


def _continued(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """For each text the earlier one that it has most in common with, and how much, (batch,) int64 both.

    Args:
        before: The earlier texts' ids, (rows, m).
        after: Ids, (batch, n).
    """
    width = min(before.shape[1], after.shape[1])
    if not len(before) or not width:
        return torch.zeros(len(after), dtype=torch.int64), torch.zeros(len(after), dtype=torch.int64)
    same = after[:, None, :width] == before[None, :, :width]
    common = torch.where(same.all(-1), width, (~same).int().argmax(-1))
    # Among equals the row that was in the same place, so that nothing is moved without need.
    in_place = torch.eye(len(after), len(before), dtype=torch.int64)
    most, origin = (2 * common + in_place).max(-1)
    return origin, most // 2
